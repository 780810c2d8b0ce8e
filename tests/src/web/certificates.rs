//! Certificates of a world: an authority of its own, and what it issues, as files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

/// An authority; its certificate lies at [`Authority::file`].
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// Files of PEM: a certificate and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    pub chain: String,
    pub key: String,
}

impl Authority {
    /// Makes one; everything it issues lies in `directory` too.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn new(directory: &Path) -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority of a world");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(directory)?;
        let authority = Authority { issuer, directory: directory.to_owned() };
        fs::write(authority.file(), authority.issuer.pem())?;
        Ok(authority)
    }

    /// Its own certificate.
    #[must_use]
    pub fn file(&self) -> String {
        self.directory.join("authority.pem").display().to_string()
    }

    /// A certificate for a DNS name, or for a SPIFFE identity where it begins with `spiffe:`. The files are called
    /// `FILE.pem` and `FILE.key`, and replaced where they are there, the certificate last.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn issue(&self, file: &str, name: &str) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let dns = if name.starts_with("spiffe:") { Vec::new() } else { vec![name.to_owned()] };
        let mut params = CertificateParams::new(dns)?;
        if name.starts_with("spiffe:") {
            params.subject_alt_names.push(SanType::URI(name.try_into()?));
        }
        let certificate = params.signed_by(&key, &self.issuer)?;
        let path = |ending: &str| self.directory.join(format!("{file}.{ending}"));
        let put = |ending: &str, text: String| -> Result<String> {
            let new = path(&format!("{ending}.new"));
            fs::write(&new, text)?;
            fs::rename(&new, path(ending))?;
            Ok(path(ending).display().to_string())
        };
        Ok(Issued { key: put("key", key.serialize_pem())?, chain: put("pem", certificate.pem())? })
    }
}
