//! A case as its files have it.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

/// What is done, and what is to come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(skip)]
    pub(crate) name: String,
    /// What it shows.
    #[serde(default)]
    pub(crate) about: String,
    #[serde(default)]
    pub(crate) provider: toml::Table,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) id_token: Option<Value>,
    #[serde(default)]
    pub(crate) step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) call: Call,
    /// What is pasted, what the browser's query is, or the refresh token.
    #[serde(default)]
    pub(crate) with: String,
    #[serde(default)]
    pub(crate) exchange: Vec<Exchange>,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    Flows,
    Authorize,
    AuthorizeLoopback,
    Answer,
    Browser,
    Exchange,
    AuthorizeDevice,
    PollDevice,
    Refresh,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) answer: Answer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(default = "post")]
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) form: Option<BTreeMap<String, String>>,
    pub(crate) json: Option<Value>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

fn post() -> String {
    "POST".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    #[serde(default = "ok")]
    pub(crate) status: u16,
    pub(crate) json: Option<Value>,
    #[serde(default)]
    pub(crate) body: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) lost: bool,
}

fn ok() -> u16 {
    200
}

/// The word for it, and what is looked at beside.
#[derive(Deserialize)]
pub(crate) struct Outcome {
    pub(crate) is: String,
    #[serde(flatten)]
    pub(crate) fields: BTreeMap<String, Value>,
}

impl Case {
    /// With what the folder says about all of its cases.
    pub(crate) fn read(file: &Path) -> Self {
        let mut case = Self::parse(file);
        let common = Self::parse(&file.with_file_name("config.toml"));
        let mut provider = common.provider;
        provider.extend(case.provider);
        case.provider = provider;
        let mut secrets = common.secrets;
        secrets.extend(case.secrets);
        case.secrets = secrets;
        case.environment.extend(common.environment);
        case.id_token = case.id_token.or(common.id_token);
        assert!(!case.about.is_empty(), "{}: say what it shows", case.name);
        assert!(!case.step.is_empty(), "{}: there is nothing to do", case.name);
        case
    }

    fn parse(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut case: Self = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut place = file.iter().rev();
        let (file, folder) = (place.next().unwrap(), place.next().unwrap());
        case.name = format!("{}/{}", folder.display(), file.display());
        case
    }
}
