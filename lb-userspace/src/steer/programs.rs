//! The programs of an object, and how long the kernel will be busy with each.

use std::collections::HashMap;

use aya_obj::Object;

/// Instructions of each program, without the functions that it calls: the kernel verifies programs in a time that goes with it.
///
/// # Errors
/// `object` is no BPF object.
pub fn lengths(object: &[u8]) -> anyhow::Result<HashMap<String, usize>> {
    let object = Object::parse(object)?;
    let length = |key| {
        object.functions.get(&key).map_or(0, |function: &aya_obj::Function| function.instructions.len())
    };
    Ok(object.programs.iter().map(|(name, program)| (name.clone(), length(program.function_key()))).collect())
}
