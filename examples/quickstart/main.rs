//! The main job in half a minute, with nothing to install and no account:
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! A small authorization server on loopback hands out tokens that live for 10 seconds, and refresh tokens that are good
//! for one use. The host stores a token set of it and two API keys in a temporary directory, then runs a child with a
//! broker of its own. The child is given a socket and a capability, fetches what it may have, tries what it may not, and
//! watches its token being renewed under it. Everything it received is searched for refresh tokens; everything on disk is
//! removed.
//!
//! This one program plays all parts: it calls itself as the `credbroker` command and as the child.

mod authority;
mod child;
mod recorder;

use std::{
    error::Error,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use authority::{Authority, LIFETIME, Seen};

/// What never leaves the host: every refresh token begins like this.
const REFRESH_TOKEN: &str = "quickstart_refresh_token_stays_on_the_host";

/// The longest path that leaves room for `/runtime/credbroker/ID/sandbox/sock`, also on macOS with its 103 bytes.
const LONGEST_HOME: usize = 48;

/// Where the child leaves every byte that the socket gave it.
const RECORD: &str = "QUICKSTART_RECORD";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|role| role.to_str()) {
        Some("credbroker") => credbroker::cli::main_with(std::iter::once("credbroker".into()).chain(arguments)),
        Some("child") => report(child::main()),
        _ => report(host()),
    }
}

fn report(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn host() -> Result<(), Box<dyn Error>> {
    let home = short_home()?;
    let record = home.path().join("received");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let authority = Authority::default();
    let port = runtime.block_on(authority.start())?;
    println!(
        "An authorization server at 127.0.0.1:{port} gives tokens for {LIFETIME} s, and each refresh token is good once.\n"
    );
    configure(home.path(), port)?;
    println!(
        "The host stores a token set and two API keys (encrypted, in {}):\n",
        home.path().display()
    );

    credbroker(home.path(), &["token", "import", "acme"], Some(&authority.first()))?;
    credbroker(home.path(), &["key", "set", "openai"], Some("sk-quickstart-openai\n"))?;
    credbroker(home.path(), &["key", "set", "stripe"], Some("sk-quickstart-stripe\n"))?;
    credbroker(home.path(), &["token", "list"], None)?;

    println!("\nIt runs a child that may read acme's token and the API key openai, nothing else:\n");
    let this = std::env::current_exe()?;
    let this = this.to_str().ok_or("the path of this program is not UTF-8")?;
    let run = ["run", "--allow", "acme", "--allow-key", "openai", "--", this, "child"];
    println!("  $ credbroker run --allow acme --allow-key openai -- CHILD");
    let status = command(home.path(), &run).env(RECORD, &record).status()?;
    if !status.success() {
        return Err(format!("the child ended with {status}").into());
    }

    println!("\nWhat is left:\n");
    let Seen { renewals, reused } = authority.seen();
    if renewals == 0 || reused > 0 {
        return Err(format!("{renewals} renewals, and {reused} times an old refresh token").into());
    }
    println!("  the token was renewed {renewals} times, and the server saw no refresh token twice");
    let received = fs::read(&record)?;
    if contains(&received, REFRESH_TOKEN.as_bytes()) {
        return Err("a refresh token crossed the socket".into());
    }
    println!(
        "  the socket gave the child {} bytes; no refresh token is among them",
        received.len()
    );
    let leftovers: Vec<_> = fs::read_dir(home.path().join("runtime/credbroker"))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    if leftovers != ["lock"] {
        return Err(format!("the broker left {leftovers:?} behind").into());
    }
    println!("  the broker has ended; its socket and its directory are gone");
    let path = home.path().to_owned();
    home.close()?;
    println!("  {} is removed", path.display());
    Ok(())
}

/// The provider, as an operator would write it down.
fn configure(home: &Path, port: u16) -> std::io::Result<()> {
    let directory = home.join("config/credbroker");
    fs::create_dir_all(&directory)?;
    fs::write(
        directory.join("config.toml"),
        format!("[providers.acme]\nclient_id = \"quickstart\"\ntoken_endpoint = \"http://127.0.0.1:{port}/token\"\n"),
    )
}

/// A directory for everything. A socket's path has room for about 100 bytes, and some temporary directories take most
/// of them.
fn short_home() -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("credbroker-quickstart-");
    let home = builder.tempdir()?;
    if home.path().as_os_str().len() <= LONGEST_HOME {
        return Ok(home);
    }
    builder.tempdir_in("/tmp")
}

/// Runs one command as a user would, and shows it.
fn credbroker(home: &Path, arguments: &[&str], input: Option<&str>) -> Result<(), Box<dyn Error>> {
    let from = if input.is_some() { " < FILE" } else { "" };
    println!("  $ credbroker {}{from}", arguments.join(" "));
    let mut child = command(home, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Dropped at the end of the statement, so that the command sees the end of its input.
    child
        .stdin
        .take()
        .ok_or("no standard input")?
        .write_all(input.unwrap_or_default().as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    for line in String::from_utf8_lossy(&said).lines() {
        println!("    {line}");
    }
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("`credbroker {}` ended with {}", arguments.join(" "), output.status).into())
    }
}

/// This program as `credbroker`, with every directory of its own below `home`, and nothing of the caller's configuration:
/// a `CREDBROKER_STORE_PATH` would lead to the caller's own store.
#[expect(
    clippy::disallowed_methods,
    reason = "the names of the caller's variables, to take them away"
)]
fn command(home: &Path, arguments: &[&str]) -> Command {
    let runtime = home.join("runtime");
    // An error shows up in the command itself.
    let _ = fs::create_dir_all(&runtime);
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "quickstart".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CREDBROKER_")) {
        command.env_remove(name);
    }
    command
        .arg("credbroker")
        .args(arguments)
        .env("XDG_RUNTIME_DIR", runtime)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_STATE_HOME", home.join("state"));
    command
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
