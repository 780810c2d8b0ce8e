//! Tells when files may have changed. Says neither what changed nor how.
