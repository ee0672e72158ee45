//! The start of a lab: its network, its hosts, its Kubernetes.

use super::api::{Lab, Options, claim, lock, require_root};
use super::layout::{self, Layout};
use super::{cluster, hosts, images, kubernetes, network, teardown};
use std::fs;
use std::time::Instant;
use testkit_base::Error;

impl Lab {
    /// Starts a lab anew; what an earlier one of the same name left, running or not, is removed first. When the start
    /// fails, its logs are kept in `target/lab-logs/NAME` and everything else is removed.
    pub async fn up(options: &Options) -> Result<Self, Error> {
        require_root()?;
        let layout = Layout::new(&options.name, options.dir.as_deref())?;
        let _only = lock(&layout)?;
        claim(&layout).await?;
        teardown::remove(&layout, None).await?;
        let lab = Self { layout };
        match lab.start(options).await {
            Ok(()) => Ok(lab),
            Err(error) => {
                let logs = lab.failure_logs();
                let also = match teardown::remove(&lab.layout, Some(&logs)).await {
                    Ok(()) => String::new(),
                    Err(error) => format!("; what it had started could not be removed: {error}"),
                };
                Err(format!(
                    "the lab {} did not start: {error} (its logs: {}){also}",
                    options.name,
                    logs.display()
                )
                .into())
            }
        }
    }

    async fn start(&self, options: &Options) -> Result<(), Error> {
        let layout = &self.layout;
        let began = Instant::now();
        let archives = if options.kubernetes {
            images::build().await?
        } else {
            Vec::new()
        };
        fs::create_dir_all(layout.dir())?;
        if fs::read_dir(layout.dir())?.next().is_some() {
            return Err(format!(
                "the folder {} is not empty and not a lab's: choose another with --dir",
                layout.dir().display()
            )
            .into());
        }
        fs::write(layout.dir().join(teardown::MARK), "")?;
        fs::create_dir_all(layout.run_dir())?;
        fs::write(layout.owner_file(), layout.dir().display().to_string())?;
        let checkout = layout::repository().display().to_string();
        fs::write(layout.checkout_file(), checkout)?;
        fs::create_dir_all(layout.logs_dir())?;
        network::create(layout, cluster::dual(options.nodes)).await?;
        let hosts = async {
            if options.hosts {
                hosts::start(self, cluster::dual(options.nodes)).await?;
            }
            Ok::<_, Error>(())
        };
        let kubernetes = async {
            if options.kubernetes {
                kubernetes::start(layout, options.nodes, &archives).await?;
                if options.policies {
                    kubernetes::enforce_policies(layout, options.nodes).await?;
                }
                let cloud = layout.kubernetes_dir().join("cloud.kubeconfig");
                let cloud = cloud.display().to_string();
                let mut words = vec!["lab", "cloud", "--kubeconfig", &cloud];
                // The one node that is the middle needs no way to it.
                let behind = options.nodes.iter().filter(|node| node.host.is_some());
                let behind: Vec<String> = behind.map(|node| node.address.to_string()).collect();
                words.extend(behind.iter().flat_map(|address| ["--node", address]));
                self.spawn_testkit(None, "cloud", &words)?;
            }
            Ok::<_, Error>(())
        };
        let (hosts, kubernetes) = tokio::join!(hosts, kubernetes);
        hosts?;
        kubernetes?;
        println!("lab {}: up in {:.1} s", layout.name(), began.elapsed().as_secs_f64());
        Ok(())
    }
}
