//! What a person does with a data set before and beside training: look at it, check it, pack it anew, divide it.

mod pack;
mod sheet;
mod split;
mod survey;

pub use pack::{PackOptions, Shard, pack};
pub use sheet::{SheetRow, contact_sheet};
pub use split::split;
pub use survey::{Survey, SurveyedSize, survey};

#[cfg(test)]
mod tests;
