//! The values of the domain: names, secrets, token sets. No I/O, no clock, no wire types.

mod answer;
mod claims;
mod expiry;
mod intent;
mod merge;
mod name;
mod secret_json;
mod token;
mod token_answer;

pub use answer::{AnswerRules, InvalidAnswer, NotAnAnswer, TokenAnswer, parse_answer};
pub use claims::Claim;
pub use expiry::{Expiry, MAX_LIFETIME};
pub use intent::Intent;
pub use merge::SavedToken;
pub use name::{DEFAULT_BUCKET, EntryKey, InvalidName, MAX_NAME, Name};
pub use secret_json::{LooseJson, LooseObject};
pub use token::{AccessToken, MAX_SECRET, Revision, TokenSet, is_token_text};
