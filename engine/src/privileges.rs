//! The rights of the process: who it becomes once its addresses are bound, and what it keeps.

use std::ffi::CString;
use std::io;

use nix::unistd::{Group, User, getgrouplist};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, clear_ambient_capability_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// What binding takes: ports below 1024, and the seal.
const OF_BINDING: CapabilitySet = CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::CHOWN);

/// A user and its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: u32,
    pub group: u32,
    groups: Vec<u32>,
}

/// Why the process cannot become somebody else.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("{what} `{name}` is not known to this system; create it, or change `{what}`")]
    Unknown { what: &'static str, name: String },
    #[error("cannot become the user with id {user}: {source}; `user` takes root")]
    Drop { user: u32, source: io::Error },
    #[error("the process could become root again: it does not go on")]
    NotDropped,
    #[error("cannot start the helper that keeps the right to bind: {0}")]
    Helper(#[source] io::Error),
}

impl Identity {
    /// By names or numbers; the group defaults to the user's own.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, PrivilegeError> {
        let unknown = |what, name: &str| PrivilegeError::Unknown { what, name: name.to_owned() };
        let found = match user.parse::<u32>() {
            Ok(id) => User::from_uid(id.into()).ok().flatten().ok_or(id),
            Err(_) => Ok(User::from_name(user).ok().flatten().ok_or_else(|| unknown("user", user))?),
        };
        let group = match group {
            Some(name) => Some(match name.parse::<u32>() {
                Ok(id) => id,
                Err(_) => {
                    Group::from_name(name).ok().flatten().ok_or_else(|| unknown("group", name))?.gid.as_raw()
                }
            }),
            None => None,
        };
        match found {
            Ok(User { name, uid, gid, .. }) => {
                let group = group.unwrap_or(gid.as_raw());
                let groups = CString::new(name).ok().and_then(|name| getgrouplist(&name, group.into()).ok());
                let groups =
                    groups.map_or_else(|| vec![group], |all| all.iter().map(|it| it.as_raw()).collect());
                Ok(Self { user: uid.as_raw(), group, groups })
            }
            // A number without a name is a user like any other.
            Err(id) => Ok(Self { user: id, group: group.unwrap_or(id), groups: vec![group.unwrap_or(id)] }),
        }
    }

    /// Of this process.
    fn present() -> Self {
        let (user, group) = (geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { user, group, groups: Vec::new() }
    }
}

/// Whose rights the process has to give away, if it has any and is to: whom it becomes.
pub fn to_become(user: Option<&str>, group: Option<&str>) -> Result<Option<Identity>, PrivilegeError> {
    match user {
        Some(user) => Identity::find(user, group).map(Some),
        None if geteuid().is_root() => Ok(None),
        None => {
            let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
            Ok(held.intersects(OF_BINDING).then(Identity::present))
        }
    }
}

/// Becomes that user, for good and with no capability. Only the calling thread does: there must be no other yet.
pub fn become_for_good(identity: &Identity) -> Result<(), PrivilegeError> {
    let user = identity.user;
    let become_other = || -> io::Result<()> {
        if geteuid().as_raw() != user || geteuid().is_root() {
            change(identity)?;
        }
        let _ = clear_ambient_capability_set();
        set_capabilities(None, keeping(CapabilitySet::empty()))?;
        set_no_new_privs(true)?;
        Ok(())
    };
    become_other().map_err(|source| PrivilegeError::Drop { user, source })?;
    let root = Uid::from_raw(0);
    if user != 0 && set_thread_res_uid(root, root, root).is_ok() {
        return Err(PrivilegeError::NotDropped);
    }
    Ok(())
}

/// As above, but with what binding takes: for the helper.
pub fn become_binder(user: u32, group: u32) -> io::Result<()> {
    let identity = Identity { user, group, groups: Vec::new() };
    let kept = capabilities(None)?.permitted & OF_BINDING;
    if geteuid().as_raw() != user {
        set_keep_capabilities(true)?;
        change(&identity)?;
    }
    let _ = clear_ambient_capability_set();
    set_capabilities(None, keeping(kept))?;
    set_no_new_privs(true)?;
    Ok(())
}

fn change(identity: &Identity) -> io::Result<()> {
    let Identity { user, group, groups } = identity;
    let groups: Vec<Gid> = groups.iter().map(|&id| Gid::from_raw(id)).collect();
    set_thread_groups(&groups)?;
    let (user, group) = (Uid::from_raw(*user), Gid::from_raw(*group));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

fn keeping(set: CapabilitySet) -> CapabilitySets {
    CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = Identity::find("root", None).unwrap();
        assert_eq!((root.user, root.group), (0, 0));
        assert_eq!(Identity::find("0", None).unwrap().user, 0);
        let nameless = Identity::find("123456", Some("654321")).unwrap();
        assert_eq!((nameless.user, nameless.group, nameless.groups), (123_456, 654_321, vec![654_321]));
        let error = Identity::find("no-such-user", None).unwrap_err().to_string();
        assert!(error.starts_with("user `no-such-user` is not known"), "{error}");
        assert!(Identity::find("root", Some("no-such-group")).is_err());
    }
}
