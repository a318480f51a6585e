//! Whose network a sandbox has. In the host's own it can listen on the host's loopback addresses, and whoever connects there
//! takes it for the program that is usually behind that port.

use std::ffi::OsStr;

use super::{Request, Runtime, SandboxError};

impl Request {
    /// Whether a sandbox may be started beside these providers, each with the key of an endpoint that is asked without TLS on
    /// this host: nothing but the port says there who it is.
    ///
    /// # Errors
    /// It could take the place of one of them, and nobody said that it may.
    pub fn check_network<'p>(
        &self,
        without_tls: impl IntoIterator<Item = (&'p str, &'static str)>,
    ) -> Result<(), SandboxError> {
        let endangered = match self.runtime {
            Runtime::Bwrap => !self.says_whose_network(),
            Runtime::Podman | Runtime::Docker => self.joins_the_hosts_network(),
        };
        match without_tls.into_iter().next().filter(|_| endangered) {
            Some((provider, key)) => Err(SandboxError::Impostor {
                provider: provider.to_owned(),
                key,
                mend: match self.runtime {
                    Runtime::Bwrap => {
                        "use https there, or give the command a network of its own with --runtime-arg=--unshare-net or --sandbox podman or docker; --runtime-arg=--share-net says that it may have them"
                    }
                    Runtime::Podman | Runtime::Docker => {
                        "use https there, or remove the --runtime-arg with which it shares that network"
                    }
                },
            }),
            None => Ok(()),
        }
    }

    /// bwrap shares the network unless it is told otherwise; who tells it to share it has said so.
    fn says_whose_network(&self) -> bool {
        const WORDS: [&str; 3] = ["--unshare-net", "--unshare-all", "--share-net"];
        self.arguments.iter().any(|word| WORDS.iter().any(|said| word == said))
    }

    fn joins_the_hosts_network(&self) -> bool {
        let is_option = |word: &&OsStr| ["--network", "--net"].iter().any(|option| word == option);
        let words = || self.arguments.iter().map(|word| word.as_os_str());
        let apart = words().zip(words().skip(1)).filter(|(option, _)| is_option(option));
        let apart = apart.map(|(_, value)| value.to_string_lossy());
        let joined = words().filter_map(|word| {
            let (option, value) = word.to_str()?.split_once('=')?;
            is_option(&OsStr::new(option)).then(|| value.into())
        });
        // A path of a network name space may be that of the host's.
        let is_hosts = |value: &str| {
            value.starts_with("ns:")
                || value
                    .split(',')
                    .any(|part| ["host", "name=host"].contains(&part.trim()))
        };
        apart.chain(joined).any(|value| is_hosts(&value))
    }
}
