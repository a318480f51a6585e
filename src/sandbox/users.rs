//! Who the command is: inside, and on the host, where the broker sees it.

use std::{ops::RangeInclusive, str::FromStr};

use super::SandboxError;

/// One more than the highest uid. The last number is no uid, it means "leave as it is".
const END: u32 = u32::MAX;

/// `UID[:GID]` inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group; without one the image decides.
    pub gid: Option<u32>,
}

/// What is no [`User`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user is UID or UID:GID, in numbers, because names are the image's affair: look into its /etc/passwd")]
pub struct InvalidUser;

impl FromStr for User {
    type Err = InvalidUser;

    fn from_str(text: &str) -> Result<Self, InvalidUser> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(id(gid).ok_or(InvalidUser)?)),
            None => (text, None),
        };
        let uid = id(uid).ok_or(InvalidUser)?;
        Ok(Self { uid, gid })
    }
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.gid {
            Some(gid) => write!(f, "{}:{gid}", self.uid),
            None => write!(f, "{}", self.uid),
        }
    }
}

fn id(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id < END)
}

/// `CONTAINER:HOST:SIZE`: this many uids inside, from the first on, stand for as many outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// The first uid inside.
    pub inside: u32,
    /// What it stands for.
    pub outside: u32,
    /// How many.
    pub size: u32,
}

/// What is no [`IdMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mapping is CONTAINER:HOST:SIZE, three numbers of which the last is not 0: write such as 0:200000:65536")]
pub struct InvalidIdMap;

impl FromStr for IdMap {
    type Err = InvalidIdMap;

    fn from_str(text: &str) -> Result<Self, InvalidIdMap> {
        let numbers: Option<Vec<u32>> = text.split(':').map(id).collect();
        match numbers.as_deref() {
            Some(&[inside, outside, size]) if size > 0 && END - inside >= size && END - outside >= size => {
                Ok(Self { inside, outside, size })
            }
            _ => Err(InvalidIdMap),
        }
    }
}

impl std::fmt::Display for IdMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.size)
    }
}

/// A mapping by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userns {
    /// None: uids inside are those that the runtime has.
    Host,
    /// The broker's user is the same inside, or this one.
    KeepId(Option<User>),
    /// The broker's user is nobody inside.
    NoMap,
}

/// What is no [`Userns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a mapping by name is host, keep-id, keep-id:uid=UID,gid=GID or nomap: choose one whose uids are known before the container is there, or use --uidmap"
)]
pub struct InvalidUserns;

impl FromStr for Userns {
    type Err = InvalidUserns;

    fn from_str(text: &str) -> Result<Self, InvalidUserns> {
        match text {
            "host" => Ok(Self::Host),
            "nomap" => Ok(Self::NoMap),
            "keep-id" => Ok(Self::KeepId(None)),
            _ => {
                let ids = text.strip_prefix("keep-id:uid=").ok_or(InvalidUserns)?;
                let (uid, gid) = ids.split_once(",gid=").ok_or(InvalidUserns)?;
                let user = User {
                    uid: id(uid).ok_or(InvalidUserns)?,
                    gid: Some(id(gid).ok_or(InvalidUserns)?),
                };
                Ok(Self::KeepId(Some(user)))
            }
        }
    }
}

impl std::fmt::Display for Userns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::NoMap => f.write_str("nomap"),
            Self::KeepId(None) => f.write_str("keep-id"),
            Self::KeepId(Some(User { uid, gid })) => write!(f, "keep-id:uid={uid},gid={}", gid.unwrap_or(*uid)),
        }
    }
}

/// The outcome: what the runtime is told, and who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Users {
    /// Options, each with its value.
    pub(super) arguments: Vec<[String; 2]>,
    /// Uids of the host.
    pub(super) host: Vec<RangeInclusive<u32>>,
}

impl Users {
    /// The broker's own user, and nothing to be said about it.
    pub(super) fn own(uid: u32) -> Self {
        Self {
            arguments: Vec::new(),
            host: vec![uid..=uid],
        }
    }

    /// This user inside, who is this one on the host.
    pub(super) fn single(user: User, host: u32) -> Self {
        Self {
            arguments: vec![["--user".to_owned(), user.to_string()]],
            host: vec![host..=host],
        }
    }
}

/// From the ids of one user namespace to those of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping(pub(super) Vec<IdMap>);

impl Mapping {
    /// Every uid stands for itself.
    pub(super) fn identity() -> Self {
        Self(vec![IdMap {
            inside: 0,
            outside: 0,
            size: END,
        }])
    }

    /// What this uid stands for.
    pub(super) fn outside(&self, uid: u32) -> Option<u32> {
        self.0.iter().find_map(|map| {
            let offset = uid.checked_sub(map.inside).filter(|offset| *offset < map.size)?;
            map.outside.checked_add(offset)
        })
    }

    /// First this mapping, then that one. What either of them leaves out is left out.
    pub(super) fn then(&self, next: &Self) -> Self {
        let mut both = Vec::new();
        for first in &self.0 {
            for second in &next.0 {
                let begin = first.outside.max(second.inside);
                let end = (first.outside.saturating_add(first.size)).min(second.inside.saturating_add(second.size));
                if begin < end {
                    both.push(IdMap {
                        inside: first.inside + (begin - first.outside),
                        outside: second.outside + (begin - second.inside),
                        size: end - begin,
                    });
                }
            }
        }
        Self(both)
    }

    /// All uids outside that something inside stands for.
    pub(super) fn all_outside(&self) -> Vec<RangeInclusive<u32>> {
        self.0
            .iter()
            .map(|map| map.outside..=map.outside + (map.size - 1))
            .collect()
    }
}

/// With this mapping to the host: the user that was asked for, or the usual one.
pub(super) fn with_user(user: User, to_host: &Mapping, mend: &'static str) -> Result<Users, SandboxError> {
    match to_host.outside(user.uid) {
        Some(host) => Ok(Users::single(user, host)),
        None => Err(SandboxError::Unmapped { uid: user.uid, mend }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_mappings_and_names_are_read_strictly() {
        for (text, want) in [("0", true), ("1000:100", true), ("4294967294", true)] {
            assert_eq!(
                text.parse::<User>().map(|user| user.to_string()).as_deref() == Ok(text),
                want
            );
        }
        for text in [
            "",
            "node",
            "1000:",
            ":0",
            "-1",
            "+1",
            "4294967295",
            "1:2:3",
            " 1",
            "1000:users",
        ] {
            assert_eq!(text.parse::<User>(), Err(InvalidUser), "{text}");
        }
        assert_eq!("0:200000:65536".parse::<IdMap>().unwrap().to_string(), "0:200000:65536");
        for text in [
            "",
            "0:0",
            "0:0:0",
            "0:1:x",
            "0:@1:1",
            "0:4294967295:1",
            "1:4294967290:9",
            "1:2:3:4",
        ] {
            assert_eq!(text.parse::<IdMap>(), Err(InvalidIdMap), "{text}");
        }
        for text in ["host", "nomap", "keep-id", "keep-id:uid=5,gid=6"] {
            assert_eq!(text.parse::<Userns>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "auto",
            "private",
            "ns:/proc/1/ns/user",
            "container:x",
            "keep-id:uid=5",
            "keep-id:gid=1,uid=2",
        ] {
            assert_eq!(text.parse::<Userns>(), Err(InvalidUserns), "{text}");
        }
    }

    #[test]
    fn mappings_follow_each_other() {
        let map = |text: &str| Mapping(text.split(' ').map(|map| map.parse().unwrap()).collect());
        // What rootless podman has, and a container of its own ids from 0 on.
        let rootless = map("0:1000:1 1:100000:65536");
        for (inner, want) in [
            ("0:0:1", "0:1000:1"),
            ("0:1:10", "0:100000:10"),
            ("0:0:3", "0:1000:1 1:100000:2"),
            (
                "0:1:1000 1000:0:1 1001:1001:10",
                "0:100000:1000 1000:1000:1 1001:101000:10",
            ),
            ("5:65536:2", "5:165535:1"),
        ] {
            assert_eq!(map(inner).then(&rootless), map(want), "{inner}");
        }
        assert_eq!(rootless.outside(0), Some(1000));
        assert_eq!(rootless.outside(65536), Some(165_535));
        assert_eq!(rootless.outside(65537), None);
        assert_eq!(Mapping::identity().outside(u32::MAX), None);
        assert_eq!(Mapping::identity().then(&rootless), rootless);
        assert_eq!(map("0:200000:65536").all_outside(), [200_000..=265_535]);
    }
}
