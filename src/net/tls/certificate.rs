//! What a certificate says: its name, the hash that stands for it, whether it is for a host.

use std::net::IpAddr;

use rustls_pki_types::UnixTime;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// A hash that a certificate may be signed with.
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Channel binding data of type `tls-server-end-point` for a server's certificate; `None` when its
/// signature names no single hash.
///
/// # Source
/// RFC 5929, section 4.1: the hash of the certificate's signature, SHA-256 in the place of MD5 and SHA-1.
pub(super) fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(match hash_of(&certificate)? {
        Hash::Sha224 => Sha224::digest(der).to_vec(),
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

fn hash_of(certificate: &X509Certificate<'_>) -> Option<Hash> {
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    Some(match algorithm.as_str() {
        // MD5 with RSA; SHA-1 with RSA, with ECDSA, with DSA.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => Hash::Sha256,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Hash::Sha224,
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Hash::Sha256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Hash::Sha384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Hash::Sha512,
        // RSASSA-PSS has its hash among its parameters; the default is SHA-1.
        "1.2.840.113549.1.1.10" => match SignatureAlgorithm::try_from(&certificate.signature_algorithm).ok()? {
            SignatureAlgorithm::RSASSA_PSS(parameters) => {
                match parameters.hash_algorithm_oid().to_id_string().as_str() {
                    "2.16.840.1.101.3.4.2.4" => Hash::Sha224,
                    "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Hash::Sha256,
                    "2.16.840.1.101.3.4.2.2" => Hash::Sha384,
                    "2.16.840.1.101.3.4.2.3" => Hash::Sha512,
                    _ => return None,
                }
            }
            _ => return None,
        },
        _ => return None,
    })
}

/// The subject's first common name; none when there is none, or when it has a NUL inside and so could
/// look like another name to somebody else.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    name_of(&certificate)
}

fn name_of(certificate: &X509Certificate<'_>) -> Option<String> {
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

/// Now lies between the certificate's first and last day.
pub(super) fn is_in_force(der: &[u8], now: UnixTime) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(now) = i64::try_from(now.as_secs()) else { return false };
    let validity = certificate.validity();
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
}

/// The certificate is for this host, by libpq's rules: alternative names first, and the common name
/// only when there is no alternative name of the right kind.
///
/// # Source
/// `pq_verify_peer_name_matches_certificate` of `src/interfaces/libpq/fe-secure-common.c`; RFC 6125.
pub(super) fn is_for_host(der: &[u8], host: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let address: Option<IpAddr> = host.parse().ok();
    let mut common_name_counts = true;
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match (name, address) {
                (GeneralName::DNSName(pattern), None) => {
                    common_name_counts = false;
                    if is_match(pattern, host) {
                        return true;
                    }
                }
                (GeneralName::IPAddress(bytes), Some(address)) => {
                    common_name_counts = false;
                    if is_address(bytes, address) {
                        return true;
                    }
                }
                _ => {}
            }
        }
    }
    common_name_counts && name_of(&certificate).is_some_and(|name| is_match(&name, host))
}

/// A wildcard stands for the whole first label and nothing else.
fn is_match(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    if pattern.eq_ignore_ascii_case(host) {
        return !pattern.is_empty();
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(parent), Some((label, rest))) => {
            !label.is_empty() && parent.contains('.') && parent.eq_ignore_ascii_case(rest) && !is_ip(host)
        }
        _ => false,
    }
}

fn is_ip(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

fn is_address(bytes: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => bytes == address.octets(),
        IpAddr::V6(address) => bytes == address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn made(names: &[&str], common_name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate_for(algorithm).unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn alternative_names_come_before_the_common_name() {
        let der = made(
            &["db.example.org", "*.wild.example.org", "10.0.0.7"],
            "cn.example.org",
            &rcgen::PKCS_ECDSA_P256_SHA256,
        );
        for host in ["db.example.org", "DB.example.org", "a.wild.example.org", "10.0.0.7"] {
            assert!(is_for_host(&der, host), "{host}");
        }
        for host in ["cn.example.org", "wild.example.org", "a.b.wild.example.org", "10.0.0.8", "example.org", "::1", ""]
        {
            assert!(!is_for_host(&der, host), "{host}");
        }
    }

    #[test]
    fn the_common_name_counts_when_there_is_no_other() {
        let der = made(&[], "db.example.org", &rcgen::PKCS_ECDSA_P256_SHA256);
        assert!(is_for_host(&der, "db.example.org"));
        assert!(!is_for_host(&der, "db2.example.org"));
        assert_eq!(common_name(&der).as_deref(), Some("db.example.org"));
    }

    #[test]
    fn a_wildcard_does_not_stand_for_a_whole_domain_or_an_address() {
        assert!(!is_match("*.org", "example.org"));
        assert!(!is_match("*", "example.org"));
        assert!(!is_match("*.0.0.1", "127.0.0.1"));
    }

    #[test]
    fn the_end_point_has_the_hash_of_the_signature() {
        let p256 = made(&[], "a", &rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&p256), Some(Sha256::digest(&p256).to_vec()));
        let p384 = made(&[], "a", &rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&p384), Some(Sha384::digest(&p384).to_vec()));
        // Ed25519 hashes inside the signature: RFC 5929 leaves it open, and PostgreSQL refuses it.
        assert_eq!(end_point(&made(&[], "a", &rcgen::PKCS_ED25519)), None);
        assert_eq!(end_point(b"no certificate"), None);
    }

    #[test]
    fn a_common_name_with_a_nul_inside_is_no_name() {
        assert_eq!(common_name(&made(&[], "app\0.example.org", &rcgen::PKCS_ECDSA_P256_SHA256)), None);
    }
}
