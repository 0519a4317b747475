//! Certificates made on the spot.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::{Uid, User};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A certificate authority with a directory of its own, which the servers' user may read.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Papers {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own each, as real ones have: one that is not trusted is then not known.
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("root {} of the tests", NEXT.fetch_add(1, Ordering::Relaxed));
        parameters.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::Builder::new().prefix("ostrakon-papers-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let authority = Self { issuer, directory };
        fs::write(authority.root(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The file of its own certificate.
    pub fn root(&self) -> PathBuf {
        self.path("root.crt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Certificate and key for a host and subject; the same file name again replaces them.
    pub fn issue(&self, file: &str, hosts: &[&str], common_name: &str) -> Papers {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let papers = Papers { certificate: self.path(&format!("{file}.crt")), key: self.path(&format!("{file}.key")) };
        fs::write(&papers.certificate, certificate.pem()).unwrap();
        fs::write(&papers.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&papers.key, fs::Permissions::from_mode(0o600)).unwrap();
        papers
    }
}

/// Gives a file to the user that PostgreSQL runs as.
pub fn give_to_server(file: &Path) {
    if Uid::effective().is_root() {
        let user = User::from_name("postgres").unwrap().unwrap();
        chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}
