use super::*;

fn rights(mode: u32, owner: u32) -> Rights {
    Rights {
        mode,
        owner,
        own: 1000,
        is_file: true,
    }
}

#[test]
fn an_identity_that_others_may_use_or_own_is_refused_with_the_mend() {
    let path = Path::new("/s/identity.txt");
    for good in [0o600, 0o400, 0o700] {
        assert_eq!(judge_file(path, &rights(good, 1000)), Ok(()));
    }
    for bad in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666] {
        let mend = judge_file(path, &rights(bad, 1000)).unwrap_err();
        assert!(mend.contains("chmod 600 \"/s/identity.txt\""), "{mend}");
    }
    for owner in [0, 1001] {
        let mend = judge_file(path, &rights(0o600, owner)).unwrap_err();
        assert!(mend.contains("chown 1000"), "{mend}");
    }
}

#[test]
fn a_store_directory_that_others_may_write_or_own_is_refused_with_the_mend() {
    let path = Path::new("/s");
    assert_eq!(judge_directory(path, &rights(0o755, 1000)), Ok(()));
    assert!(
        judge_directory(path, &rights(0o775, 1000))
            .unwrap_err()
            .contains("chmod 700")
    );
    assert!(
        judge_directory(path, &rights(0o777, 1000))
            .unwrap_err()
            .contains("chmod 700")
    );
    assert!(judge_directory(path, &rights(0o700, 0)).unwrap_err().contains("chown"));
}

fn keeper(root: &Path) -> Arc<Keeper> {
    Keeper::new(root.to_owned(), IdentitySource::Default, Arc::default())
}

/// HKDF-SHA-256 (RFC 5869) with no salt, written out.
#[test]
fn keys_that_are_derived_are_of_one_identity_and_one_use() {
    use hmac::{Hmac, Mac as _};
    let mac = |key: &[u8], text: &[u8]| -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).unwrap();
        mac.update(text);
        mac.finalize().into_bytes().into()
    };
    let text = [new_identity_file(), new_identity_file()]
        .map(|file| file.to_vec())
        .concat();
    let identities = Identities::parse(&text).unwrap();
    let uses = ["one use", "another"];
    let want = identities.all().iter().map(|identity| {
        let extracted = mac(&[0; 32], identity.to_string().expose_secret().as_bytes());
        uses.map(|info| mac(&extracted, &[info.as_bytes(), &[1]].concat()))
    });
    let derived = identities.derive(uses).into_iter().map(|keys| keys.map(|key| *key));
    assert_eq!(derived.collect::<Vec<_>>(), want.collect::<Vec<_>>());
}

#[test]
fn whoever_finds_another_process_making_the_identity_waits_for_it() {
    let root = tempfile::tempdir().unwrap();
    let directory = layout::locks(root.path());
    std::fs::create_dir(&directory).unwrap();
    let held = lock::try_lock(&directory.join(LOCK)).unwrap().unwrap();
    let freed = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        held.unlock().unwrap();
    });
    assert!(keeper(root.path()).load(Look::Make).unwrap().is_some());
    freed.join().unwrap();
}

#[test]
fn an_identity_file_may_be_64_kib_long() {
    let root = tempfile::tempdir().unwrap();
    let mut text = new_identity_file().to_vec();
    text.resize(65_536, b'\n');
    durable::create(root.path(), FILE, &text).unwrap();
    assert!(keeper(root.path()).load(Look::Current).unwrap().is_some());
    text.push(b'\n');
    durable::replace(root.path(), FILE, &text).unwrap();
    let error = keeper(root.path()).load(Look::Current).err().unwrap();
    assert!(error.to_string().contains("too large"), "{error}");
}

/// Whoever only reads does not wait for the disk.
#[test]
fn before_something_is_written_with_it_an_identity_is_made_durable() {
    let root = tempfile::tempdir().unwrap();
    durable::create(root.path(), FILE, &new_identity_file()).unwrap();
    let keeper = keeper(root.path());
    for (look, durable) in [(Look::Current, false), (Look::Make, true), (Look::Current, true)] {
        keeper.load(look).unwrap().unwrap();
        assert_eq!(keeper.durable.load(Ordering::Acquire), durable, "{look:?}");
    }
}

#[test]
fn whoever_finds_another_process_making_the_identity_gives_up_in_the_end() {
    let root = tempfile::tempdir().unwrap();
    let directory = layout::locks(root.path());
    std::fs::create_dir(&directory).unwrap();
    let held = lock::try_lock(&directory.join(LOCK)).unwrap().unwrap();
    let freed = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        held.unlock().unwrap();
    });
    let error = keeper(root.path()).make(Instant::now()).unwrap_err();
    assert!(error.to_string().contains("does not finish"), "{error}");
    freed.join().unwrap();
    keeper(root.path()).make(Instant::now()).unwrap();
}

/// What another process did before this one got the lock is taken as it is.
#[test]
fn an_identity_is_made_only_where_there_is_none_and_nothing_is_stored() {
    let root = tempfile::tempdir().unwrap();
    let keeper = keeper(root.path());
    keeper.make(Instant::now()).unwrap();
    let made = std::fs::read(root.path().join(FILE)).unwrap();
    let place = layout::Place::of_entry(&crate::credential::EntryKey::parse("p", "").unwrap());
    let directory = keeper.directories.make(root.path(), &place.directory).unwrap();
    durable::create(&directory, &place.file, b"a record").unwrap();
    keeper.make(Instant::now()).unwrap();
    assert_eq!(std::fs::read(root.path().join(FILE)).unwrap(), made);
    durable::remove(root.path(), FILE).unwrap();
    let error = keeper.make(Instant::now()).unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
    assert!(!root.path().join(FILE).exists());
}

#[test]
fn a_store_directory_that_cannot_be_looked_at_is_not_taken_for_one_to_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    keeper(&directory.path().join("absent"))
        .judge_store_directory()
        .unwrap();
    let error = keeper(&file.join("below")).judge_store_directory().unwrap_err();
    assert!(
        error.to_string().contains("a file is where a directory has to be"),
        "{error}"
    );
}

#[test]
fn what_is_no_identity_is_refused_without_quoting_it() {
    let good = new_identity_file();
    assert_eq!(Identities::parse(&good).unwrap().all().len(), 1);
    let two = [good.as_slice(), b"\r\n", new_identity_file().as_slice()].concat();
    assert_eq!(Identities::parse(&two).unwrap().all().len(), 2);
    let cut = good.get(..good.len() - 3).unwrap();
    let texts: [&[u8]; 5] = [b"", b"# nothing\n", b"s3cret", b"\xff", cut];
    for bad in texts {
        let said = Identities::parse(bad).err().unwrap();
        assert!(!said.contains("s3cret") && !said.contains("KEY-1Q"), "{said}");
    }
}
