//! Slurm: whether a process is a task of srun, and where rank 0 of a job listens.

use super::Environment;

/// True if the variables are those of a task. The shells of salloc and sbatch have some of them, although they are no task of srun.
pub fn is_task(environment: Environment) -> bool {
    let is_batch_shell =
        environment("ENVIRONMENT").as_deref() == Some("BATCH") && environment("SLURM_STEP_ID").is_none();
    let has = |name: &str| environment(name).is_some();
    (has("SLURM_PROCID") || has("SLURM_LOCALID")) && !is_batch_shell
}

/// The first node of the step or the job.
pub fn first_node(environment: Environment) -> Option<String> {
    let lists = ["SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"];
    first_host(&lists.into_iter().find_map(environment)?)
}

/// Number of the job, as text.
pub fn job(environment: Environment) -> Option<String> {
    environment("SLURM_JOB_ID").or_else(|| environment("SLURM_JOBID"))
}

/// The first host of Slurm's list, such as `node[07-09,12],login1`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let host = match rest.strip_prefix('[') {
        Some(range) => {
            let first = range.split([',', '-', ']']).next()?;
            let suffix =
                range.split_once(']').map_or("", |(_, after)| after.split([',', '[']).next().unwrap_or(""));
            format!("{name}{first}{suffix}")
        }
        None => name.to_string(),
    };
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_host_of_a_slurm_list_is_found() {
        for (list, host) in [
            ("node7", "node7"),
            ("a1,b2", "a1"),
            ("n[3,5]", "n3"),
            ("gpu[001-004]", "gpu001"),
            ("r[1-2]-ib,x", "r1-ib"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(host), "{list}");
        }
        assert_eq!(first_host(""), None);
    }
}
