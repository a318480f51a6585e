//! The sockets, who is calling, and the layers around every call. It knows tonic and tower and takes no decision of the
//! domain.

pub mod admission;
pub mod authority;
mod complete;
mod deadline;
mod ending;
mod going_on;
mod header_block;
pub mod layers;
mod limits;
pub mod metrics;
pub mod peer;
mod recorded;
mod refusals;
mod routes;
pub mod serve;
mod single;
pub mod socket;

pub use layers::Layers;
pub use limits::Limits;
pub use routes::Routes;
pub use serve::{Served, serve};
