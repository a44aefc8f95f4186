//! Every case of the golden folder, one named test per topic: `cargo test -p fornax-tests --test golden [-- TOPIC]`.
//!
//! `FORNAX_GOLDEN` selects another folder, `FORNAX_TEST_DEVICES` (default `cpu`) the devices. A topic that is not implemented yet is
//! ignored by default, and fails when it is selected by name.
use fornax::device::DeviceSpec;
use fornax_engine::Device;
use fornax_tests::golden::{TOPICS, Topic, folder};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let args = Arguments::from_args();
    let devices = std::env::var("FORNAX_TEST_DEVICES").unwrap_or_else(|_| "cpu".into());
    let mut trials = vec![Trial::test("every_file_is_a_known_topic", every_file_is_a_known_topic)];
    for (name, check) in TOPICS {
        for device in devices.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            let title = if devices.contains(',') { format!("{name}@{device}") } else { (*name).to_string() };
            let device = device.to_string();
            trials.push(match check {
                Some(check) => Trial::test(title, move || {
                    check(&Topic::load(&folder(), name, device_of(&device)?)?)?;
                    Ok(())
                }),
                None => Trial::test(title, || Err("this topic is not implemented yet".into()))
                    .with_ignored_flag(args.filter.is_none()),
            });
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

fn device_of(name: &str) -> Result<Device, Failed> {
    let choice: DeviceSpec = name.parse().map_err(|e| format!("FORNAX_TEST_DEVICES: {name} {e}"))?;
    Ok(choice.open().map_err(|e| e.to_string())?)
}

/// Fails on a file of an unknown topic.
fn every_file_is_a_known_topic() -> Result<(), Failed> {
    let folder = folder();
    let mut found = 0;
    for entry in std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".json").filter(|s| *s != "manifest") else { continue };
        found += 1;
        if !TOPICS.iter().any(|(topic, _)| *topic == stem) {
            return Err(format!("{name}: unknown topic; add it to TOPICS").into());
        }
    }
    if found == 0 {
        Err(format!("{} contains no topic; check FORNAX_GOLDEN", folder.display()).into())
    } else {
        Ok(())
    }
}
