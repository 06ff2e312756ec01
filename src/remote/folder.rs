//! A folder that several users share: what one of them creates there has the rights of the folder itself, whatever his umask says.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The folder.
pub(super) struct SharedFolder {
    root: PathBuf,
}

impl SharedFolder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The rights of everybody to the folder.
    fn mode(&self) -> io::Result<u32> {
        Ok(fs::metadata(&self.root)?.permissions().mode() & 0o7777)
    }

    /// Creates the folders that an object will lie in.
    pub(super) fn prepare(&self, object: &str) -> io::Result<()> {
        let mut folder = self.root.clone();
        for name in Path::new(object).parent().iter().flat_map(|parent| parent.iter()) {
            folder.push(name);
            match fs::create_dir(&folder) {
                Ok(()) => fs::set_permissions(&folder, fs::Permissions::from_mode(self.mode()?))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets everybody read an object who may read the folder, and write who may write there.
    pub(super) fn share(&self, object: &str) -> io::Result<()> {
        fs::set_permissions(self.root.join(object), fs::Permissions::from_mode(self.mode()? & 0o666))
    }
}
