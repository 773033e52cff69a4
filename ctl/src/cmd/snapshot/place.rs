//! Where archives are: on this host, or in a bucket of an object store.

use super::age::Readable;
use crate::Context;
use std::{fmt, path::PathBuf, str::FromStr};

/// A path, or an address like `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file or a directory.
    Path(PathBuf),
    /// An object, or what they all begin with.
    #[cfg(feature = "object-store")]
    Bucket(super::bucket::Address),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None => Ok(Self::Path(text.into())),
            Some(("s3", rest)) => bucket(rest),
            Some(_) => Err(format!("'{text}' is no path, and no address that is known here")),
        }
    }
}

#[cfg(feature = "object-store")]
fn bucket(rest: &str) -> Result<Place, String> {
    rest.parse().map(Place::Bucket)
}

#[cfg(not(feature = "object-store"))]
fn bucket(_: &str) -> Result<Place, String> {
    Err("this konsulctl was built without object stores; that of the packages has them (cargo feature object-store)"
        .to_owned())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "object-store")]
            Self::Bucket(address) => write!(f, "{address}"),
        }
    }
}

impl Place {
    /// What has this name there, for people.
    pub(super) fn below(&self, name: &str) -> String {
        match self {
            Self::Path(dir) => dir.join(name).display().to_string(),
            #[cfg(feature = "object-store")]
            Self::Bucket(address) => format!("{address}/{name}"),
        }
    }

    /// Every node finds the same there.
    pub(super) fn is_shared(&self) -> bool {
        match self {
            Self::Path(_) => false,
            #[cfg(feature = "object-store")]
            Self::Bucket(_) => true,
        }
    }

    /// The archive there, brought here if it is elsewhere.
    #[cfg_attr(not(feature = "object-store"), expect(unused_variables, reason = "only what is elsewhere is fetched"))]
    pub(super) async fn fetch(&self, context: &Context) -> anyhow::Result<Readable> {
        match self {
            Self::Path(path) => Ok(Readable::file(path)),
            #[cfg(feature = "object-store")]
            Self::Bucket(address) => {
                let scratch = super::bucket::Bucket::open(address)?.fetch(context).await?;
                Ok(Readable::scratch(address.to_string(), scratch))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn what_is_no_address_is_a_path() {
        for path in ["backup.kbs", "/var/lib/konsul-backup", "s3:bucket"] {
            assert_eq!(path.parse(), Ok(Place::Path(path.into())));
        }
        for wrong in ["gs://bucket/x", "s3://", "s3:///key"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[cfg(feature = "object-store")]
    #[test]
    fn an_address_is_shown_as_it_was_written() {
        for address in ["s3://bucket", "s3://bucket/a/b", "s3://bucket/a.kbs"] {
            assert_eq!(address.parse::<Place>().map(|place| place.to_string()), Ok(address.to_owned()));
        }
        assert_eq!("s3://bucket/a/".parse::<Place>().map(|place| place.to_string()), Ok("s3://bucket/a".to_owned()));
    }
}
