//! Privileges: none are kept, and none can be had.

use super::Outcome;

/// Gives up every capability of this thread. A broker of root's still owns its own files; what it cannot do any more is to
/// pass over the rights of others'.
#[cfg(target_os = "linux")]
pub(super) fn drop_capabilities() -> Outcome {
    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    };
    let failed = |what: &'static str| move |error| format!("{what}: {error}");
    let sets = capabilities(None).map_err(failed("capget"))?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        // Those that are not known here either: the system says where they end.
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match capability_is_in_bounding_set(capability) {
                Ok(true) => remove_capability_from_bounding_set(capability).map_err(failed("the bounding set"))?,
                Ok(false) => {}
                Err(_beyond_the_last) => break,
            }
        }
    }
    clear_ambient_capability_set().map_err(failed("the ambient set"))?;
    let held = sets.effective | sets.permitted | sets.inheritable;
    if held.is_empty() {
        return Ok("there was none".to_owned());
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(failed("capset"))?;
    Ok("none is left".to_owned())
}

/// No program that is started from here, set-uid or not, has more rights.
#[cfg(target_os = "linux")]
pub(super) fn no_new_privileges() -> Outcome {
    rustix::thread::set_no_new_privs(true)
        .map(|()| "no program that is started has more".to_owned())
        .map_err(|error| error.to_string())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn drop_capabilities() -> Outcome {
    Err("only Linux has it".to_owned())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn no_new_privileges() -> Outcome {
    Err("only Linux has it".to_owned())
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::{CapabilitySet, capabilities, capability_is_in_bounding_set, no_new_privs};

    use super::*;

    #[test]
    fn nothing_is_left_and_nothing_comes_back() {
        let could = capabilities(None).unwrap().effective.contains(CapabilitySet::SETPCAP);
        let (sets, bounded, locked) = thread::spawn(|| {
            drop_capabilities().unwrap();
            no_new_privileges().unwrap();
            // Without any it goes as well.
            drop_capabilities().unwrap();
            (
                capabilities(None).unwrap(),
                capability_is_in_bounding_set(CapabilitySet::CHOWN).unwrap(),
                no_new_privs().unwrap(),
            )
        })
        .join()
        .unwrap();
        assert!(sets.effective.is_empty() && sets.permitted.is_empty() && sets.inheritable.is_empty());
        assert!(locked);
        assert!(!could || !bounded);
        assert_eq!(
            capabilities(None).unwrap().effective.contains(CapabilitySet::SETPCAP),
            could
        );
    }
}
