//! Environment of NCCL under `--deterministic`.
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// NCCL chooses algorithm and protocol by size and topology, and NVLS reduces in the switch in no fixed order. With these variables, sums are
/// added in the order of the ring.
const DETERMINISTIC: [(&str, &str); 3] =
    [("NCCL_ALGO", "Ring"), ("NCCL_PROTO", "Simple"), ("NCCL_NVLS_ENABLE", "0")];

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
        assert_eq!(missing_variables(|name| name == "NCCL_PROTO"), [DETERMINISTIC[0], DETERMINISTIC[2]]);
    }
}
