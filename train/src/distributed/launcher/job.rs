//! Identity of a job: ranks of different jobs that meet by accident do not mix.
use super::super::wire::shown;
use super::Environment;
use super::slurm;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;

/// Environment variable with the text of `--rdzv-id`.
pub const ID_VARIABLE: &str = "FORNAX_RDZV_ID";
/// First port of rank 0 by a job's id, and number of such ports.
const FIRST_PORT: u16 = 15_000;
const PORTS: u64 = 15_000;
/// Steps of a Slurm job before the ports of the next job's steps follow.
const STEPS: u64 = 127;

/// Job that a rank belongs to, equal on all of its ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// `--rdzv-id`, or the launcher's name of the job.
    pub id: Option<String>,
    /// Name of the run's folder.
    pub experiment: Option<String>,
    /// Output folder as it was passed; machines may differ in it if the job has an id.
    pub output: Option<String>,
    /// Number of restarts of the group.
    pub restarts: u64,
}

impl Job {
    /// The job with the folder of its run.
    pub fn with_folder(self, experiment: Option<&str>, output: Option<&Path>) -> Job {
        let output = output.filter(|_| self.id.is_none()).map(|path| path.display().to_string());
        Job { experiment: experiment.map(String::from), output, ..self }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named =
            |name: &str, text: &Option<String>| text.as_ref().map(|text| format!("{name} {:?}", shown(text)));
        let restart = (self.restarts > 0).then(|| format!("restart {}", self.restarts));
        let parts = [
            Some(named("job", &self.id).unwrap_or_else(|| "job without an id".into())),
            named("--experiment", &self.experiment),
            named("--output", &self.output),
            restart,
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// The id of the job that a launcher has started. Hydra's PMI_ID is the number of a process.
pub fn id_by_launcher(launcher: &str, environment: Environment) -> Option<String> {
    match launcher {
        "torchrun" => environment("TORCHELASTIC_RUN_ID"),
        "Slurm" => slurm::job(environment).map(|job| match environment("SLURM_STEP_ID") {
            Some(step) => format!("{job}.{step}"),
            None => job,
        }),
        "Open MPI" => ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"].into_iter().find_map(environment),
        "PMI" => ["PMI_KVSNAME", "PMI_JOBID"].into_iter().find_map(environment),
        _ => None,
    }
}

/// Port of rank 0 of a job.
pub fn port_of_id(id: &str) -> u16 {
    let hash = Sha256::digest(id);
    let number = hash.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    FIRST_PORT + (number % PORTS) as u16
}

/// Port of rank 0 of a step of a Slurm job, which differs among the steps that run at once.
pub fn port_of_step(job: u64, step: u64) -> u16 {
    FIRST_PORT + (job.wrapping_mul(STEPS).wrapping_add(step) % PORTS) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn output_folder_belongs_to_a_job_without_an_id_only() {
        let with_folder = |id: Option<&str>, output: &str| {
            let job = Job { id: id.map(String::from), ..Job::default() };
            job.with_folder(Some("a"), Some(Path::new(output)))
        };
        assert_ne!(with_folder(None, "x"), with_folder(None, "y"));
        assert_eq!(with_folder(Some("7"), "x"), with_folder(Some("7"), "y"));
        assert_eq!(
            with_folder(None, "x").to_string(),
            "job without an id, --experiment \"a\", --output \"x\""
        );
        assert_eq!(with_folder(Some("7"), "x").to_string(), "job \"7\", --experiment \"a\"");
    }

    #[test]
    fn ports_of_steps_and_of_consecutive_jobs_differ() {
        let ports: BTreeSet<u16> =
            (0..100).flat_map(|job| (0..100).map(move |step| port_of_step(47_000 + job, step))).collect();
        assert_eq!(ports.len(), 10_000);
        assert!(ports.iter().all(|port| (15_000..30_000).contains(port)));
        assert_ne!(port_of_id("prterun-node1-17@1"), port_of_id("prterun-node1-18@1"));
        assert!((15_000..30_000).contains(&port_of_id("")));
    }
}
