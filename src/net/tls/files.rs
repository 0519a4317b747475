//! Certificates and keys from PEM files, and whether the files have changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::RootCertStore;

use super::TlsError;

/// No such file is larger; nothing is read from one that is.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What tells one version of some files from the next.
///
/// # Invariants
/// Equal stamps mean equal contents, as far as a file system can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<(u64, u64, i64, i64)>>);

/// The present stamp of some files; one that is missing has one, too.
pub(super) fn stamp(files: &[&Path]) -> Stamp {
    let one = |path: &&Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
    };
    Stamp(files.iter().map(one).collect())
}

/// The certificates of a file, in its order.
///
/// # Errors
/// Not readable, not PEM, none in it.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(refusal(file, "it holds no certificate in PEM format")),
        Ok(found) => Ok(found),
        Err(_) => Err(refusal(file, "it is not in PEM format")),
    }
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1, not encrypted.
///
/// # Errors
/// Not readable, none in it. The error says nothing of the contents.
pub(super) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(file)?;
    warn_of_open_key(file);
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let is_encrypted = text.windows(9).any(|window| window == b"ENCRYPTED");
        refusal(file, if is_encrypted { "its key is encrypted" } else { "it holds no private key in PEM format" })
    })
}

/// Certificates that others are verified against.
///
/// # Errors
/// As [`certificates`]; one of them is no certificate.
pub(super) fn roots(file: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let found = certificates(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &found {
        roots.add(certificate.clone()).map_err(|error| refusal(file, &error.to_string()))?;
    }
    Ok((roots, found))
}

/// PostgreSQL refuses a key that others can read. Secrets that are mounted into containers often are
/// so and cannot be changed: it is said, and used.
fn warn_of_open_key(file: &Path) {
    if fs::metadata(file).is_ok_and(|metadata| metadata.mode() & 0o007 != 0) {
        tracing::warn!(file = %file.display(), "everybody on this machine can read the private key");
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error: std::io::Error| refusal(file, &error.to_string());
    let metadata = fs::metadata(file).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(refusal(file, "it is no file of a sensible size"));
    }
    fs::read(file).map_err(failed)
}

fn refusal(file: &Path, reason: &str) -> TlsError {
    TlsError::File { file: PathBuf::from(file), reason: reason.to_owned() }
}
