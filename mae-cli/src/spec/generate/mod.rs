//! What else the table of fields says: TAO's packaged schema files, templates and manifest, and the reference page.

mod json;
mod packaged;
mod reference;

pub use packaged::{ACTIONS, Strictness, json_schema, manifest, template};
pub use reference::reference;
