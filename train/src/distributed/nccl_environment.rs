//! Environment of NCCL under `--deterministic`.
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// NVLS and CollNet reduce in a switch, in no fixed order. Rings and trees add in an order that depends on size and topology alone,
/// whatever the protocol, so NCCL chooses between them.
const DETERMINISTIC: [(&str, &str); 2] = [("NCCL_ALGO", "Ring,Tree"), ("NCCL_NVLS_ENABLE", "0")];

/// Makes NCCL's reductions repeat bit for bit. NCCL reads its settings from the environment, which a running program cannot change safely: if a
/// variable is missing, the process starts its program anew. Variables that are set already stay as they are.
pub fn restart_with_deterministic_nccl() -> Result<()> {
    let missing = missing_variables(|name| env::var_os(name).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let failed = |e| {
        Error::new(ErrorKind::Bug, "the program cannot be started with the environment of NCCL").because(e)
    };
    let program = env::current_exe().map_err(failed)?;
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    Err(failed(Command::new(program).arg0(name).args(arguments).envs(missing).exec()))
}

fn missing_variables(is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    DETERMINISTIC.into_iter().filter(|(name, _)| !is_set(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_user_are_kept() {
        assert_eq!(missing_variables(|_| false), DETERMINISTIC);
        assert_eq!(missing_variables(|name| name == "NCCL_ALGO"), [("NCCL_NVLS_ENABLE", "0")]);
    }

    #[test]
    fn ring_and_tree_are_allowed_with_any_protocol_and_without_nvls() {
        assert_eq!(DETERMINISTIC, [("NCCL_ALGO", "Ring,Tree"), ("NCCL_NVLS_ENABLE", "0")]);
    }
}
