//! With which keys to ask, and in which region: the environment first, then the metadata of the instance (IMDSv2).

use super::super::AwsEnvironment;
use super::http::{self, HttpError, Request};
use aws_credential_types::Credentials;
use serde::Deserialize;
use std::time::Duration;

/// The metadata service of every EC2 instance.
const METADATA: &str = "http://169.254.169.254";
/// It is next door. Outside of EC2 nobody answers at all.
const METADATA_WAIT: Duration = Duration::from_secs(2);
const TOKEN_SECONDS: &str = "60";

#[derive(Debug, thiserror::Error)]
pub(in crate::cluster::discovery) enum CredentialsError {
    #[error("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY, or the other way round; set both")]
    Half,
    #[error(
        "the instance metadata did not answer; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role"
    )]
    Silent,
    #[error("ask the instance metadata; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role")]
    Http(#[source] HttpError),
    #[error("the instance metadata answered {path} with {status}; has the instance a role?")]
    Status { path: String, status: u16 },
    #[error("the instance metadata answered {path} with what cannot be read")]
    Unreadable { path: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
}

/// Where keys and region come from.
pub(super) struct Sources<'a>(pub(super) &'a AwsEnvironment);

impl Sources<'_> {
    /// Those of the environment, or of the role of the instance; asked for anew each time, because they expire.
    pub(super) async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let AwsEnvironment { access_key_id, secret_access_key, session_token, .. } = self.0;
        match (access_key_id, secret_access_key) {
            (Some(id), Some(secret)) => {
                Ok(Credentials::new(id.clone(), secret.clone(), session_token.clone(), None, "environment"))
            }
            (None, None) => self.of_role().await,
            (Some(_), None) | (None, Some(_)) => Err(CredentialsError::Half),
        }
    }

    /// That of the environment, or the one the instance is in.
    pub(super) async fn region(&self) -> Result<String, CredentialsError> {
        match &self.0.region {
            Some(region) => Ok(region.clone()),
            None => self.metadata("/latest/meta-data/placement/region", &self.token().await?).await,
        }
    }

    async fn of_role(&self) -> Result<Credentials, CredentialsError> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let token = self.token().await?;
        let roles = self.metadata(ROLES, &token).await?;
        let unreadable = |path: &str| CredentialsError::Unreadable { path: path.to_owned() };
        let role = roles.lines().next().filter(|role| !role.is_empty()).ok_or_else(|| unreadable(ROLES))?;
        let path = format!("{ROLES}{role}");
        let text = self.metadata(&path, &token).await?;
        let found: RoleCredentials = serde_json::from_str(&text).map_err(|_not_that_json| unreadable(&path))?;
        Ok(Credentials::new(found.access_key_id, found.secret_access_key, Some(found.token), None, "instance role"))
    }

    /// Version 2 of the service gives nothing without a token that only a PUT gets: a program that can be talked into
    /// fetching an address gets no keys.
    async fn token(&self) -> Result<String, CredentialsError> {
        let header = ("x-aws-ec2-metadata-token-ttl-seconds".to_owned(), TOKEN_SECONDS.to_owned());
        self.fetch("PUT", "/latest/api/token", header).await
    }

    async fn metadata(&self, path: &str, token: &str) -> Result<String, CredentialsError> {
        self.fetch("GET", path, ("x-aws-ec2-metadata-token".to_owned(), token.to_owned())).await
    }

    async fn fetch(
        &self,
        method: &'static str,
        path: &str,
        header: (String, String),
    ) -> Result<String, CredentialsError> {
        let service = self.0.metadata_endpoint.as_deref().unwrap_or(METADATA);
        let url = format!("{}{path}", service.trim_end_matches('/'));
        let request = Request { method, url, headers: vec![header], body: String::new() };
        let reply = tokio::time::timeout(METADATA_WAIT, http::send(request)).await;
        let reply = reply.map_err(|_elapsed| CredentialsError::Silent)?.map_err(CredentialsError::Http)?;
        if reply.status != 200 {
            return Err(CredentialsError::Status { path: path.to_owned(), status: reply.status });
        }
        let text = String::from_utf8(reply.body.to_vec());
        text.map_err(|_not_text| CredentialsError::Unreadable { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn environment(variables: &[(&str, &str)]) -> AwsEnvironment {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        AwsEnvironment::read(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    /// Speaks as much of the metadata service as we use, and insists on version 2 as a hardened instance does.
    async fn metadata_service(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                let mut part = [0; 1024];
                let read = stream.read(&mut part).await.unwrap();
                head.extend_from_slice(&part[..read]);
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let with_token = head.contains("x-aws-ec2-metadata-token: t0\r\n");
            let (status, body) = match head.lines().next().unwrap() {
                "put /latest/api/token http/1.1" if head.contains("x-aws-ec2-metadata-token-ttl-seconds: 60\r\n") => {
                    (200, "T0")
                }
                "get /latest/meta-data/iam/security-credentials/ http/1.1" if with_token => (200, "konsul-node\n"),
                "get /latest/meta-data/iam/security-credentials/konsul-node http/1.1" if with_token => (
                    200,
                    r#"{"Code":"Success","AccessKeyId":"A1","SecretAccessKey":"S1","Token":"T1","Expiration":"2030-01-01T00:00:00Z"}"#,
                ),
                "get /latest/meta-data/placement/region http/1.1" if with_token => (200, "eu-central-1"),
                _ => (401, "no"),
            };
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn keys_of_the_environment_come_first() {
        let set = [("AWS_ACCESS_KEY_ID", "A0"), ("AWS_SECRET_ACCESS_KEY", "S0"), ("AWS_SESSION_TOKEN", "T0")];
        let found = Sources(&environment(&set)).credentials().await.unwrap();
        let found = (found.access_key_id(), found.secret_access_key(), found.session_token());
        assert_eq!(found, ("A0", "S0", Some("T0")));
        let half = Sources(&environment(&set[..1])).credentials().await;
        assert!(matches!(half, Err(CredentialsError::Half)), "{half:?}");
    }

    #[tokio::test]
    async fn an_instance_role_is_asked_for_by_version_2_of_the_metadata_service() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = tokio::spawn(metadata_service(listener));
        let environment = environment(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)]);
        let sources = Sources(&environment);
        let found = sources.credentials().await.unwrap();
        let found = (found.access_key_id(), found.secret_access_key(), found.session_token());
        assert_eq!(found, ("A1", "S1", Some("T1")));
        assert_eq!(sources.region().await.unwrap(), "eu-central-1");
        service.abort();
    }

    #[tokio::test]
    async fn without_keys_and_without_metadata_it_is_said_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let environment = environment(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)]);
        let error = Sources(&environment).credentials().await.unwrap_err();
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", environment(&[("AWS_SECRET_ACCESS_KEY", "hidden")]));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
