//! From a file's text to documents.
use super::{Document, ObjectError};

/// Reads every document of a file.
///
/// # Errors
/// Everything that is wrong in it, in the order of the file.
pub fn read_documents(file: &str, text: &str) -> Result<Vec<Document>, Vec<ObjectError>> {
    super::tree::parse(file, text).map_err(|error| vec![error])?;
    Ok(Vec::new())
}
