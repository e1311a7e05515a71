//! The order in which the programs of an object are loaded. Pure.

use aya::Ebpf;
use aya::programs::Program;
use aya_obj::Object;

/// The programs of `ebpf`, which was loaded from `object`: the longest last, where they are taken from first. The kernel verifies each
/// in a time that goes with its length, so that no core is left with a long one at the end.
pub fn longest_last<'e>(ebpf: &'e mut Ebpf, object: &Object) -> Vec<(&'e str, &'e mut Program)> {
    let length = |name: &str| {
        let program = object.programs.get(name)?;
        Some(object.functions.get(&program.function_key())?.instructions.len())
    };
    let mut programs: Vec<_> = ebpf.programs_mut().collect();
    programs.sort_by_cached_key(|(name, _)| length(name));
    programs
}
