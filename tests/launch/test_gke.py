"""launch/gke.sh: its manifests, their schemas, and a stand-in of kubectl."""

import json
import pathlib

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.launch.conftest import NASTY

SCHEMA = pathlib.Path(__file__).parent / "jobset_schema.json"
GKE = ("launch/gke.sh", "--name=t", "--image=registry/t5x_lite:1")
TPU = ("--accelerator=tpu-v5p-slice", "--topology=2x2x2")
RUN = (*GKE, *TPU, "run", "train")
STUDY = (*GKE, "--accelerator=nvidia-l4", "--arms=3", "--claim=disk")


@pytest.fixture
def t5x_lite(cloud):
  """Makes the image's command: it prints its arguments, and fails."""
  cloud.tool("t5x_lite", "printf '%s\\0' \"$@\"; exit 7")


def manifest(cloud, *words):
  """Returns what a dry run prints, read as YAML."""
  printed = cloud.run(*words[:1], "--dry_run", *words[1:])
  command, *lines, end = printed.splitlines()
  assert command == "kubectl create --filename=- <<'END'" and end == "END"
  return yaml.safe_load("\n".join(lines))


def check_job(spec):
  """Checks a job's spec against Kubernetes' schema of a Job."""
  job = {
    "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "t"},
    "spec": spec,
  }  # fmt: skip
  kubernetes_validate.validate(job, "1.33", strict=True)


@pytest.mark.parametrize("more", [[], ["--spot", "--slices=2", "--chips=8"]])
def test_a_run_fits_the_schemas_of_jobset_and_kubernetes(more, cloud):
  run = manifest(cloud, *GKE, *TPU, *more, "run", "train", *NASTY)
  jsonschema.validate(run, json.loads(SCHEMA.read_text()))
  for job in run["spec"]["replicatedJobs"]:
    check_job(job["template"]["spec"])
  assert not cloud.calls()


@pytest.mark.parametrize(
  "machines",
  [["--accelerator=nvidia-l4", "--spot"],
   ["--accelerator=tpu-v5-lite-podslice", "--topology=2x2"]],
)  # fmt: skip
def test_a_study_fits_the_schema_of_kubernetes(machines, cloud):
  study = manifest(cloud, *STUDY, *machines, "study", "ablate", *NASTY)
  kubernetes_validate.validate(study, "1.33", strict=True)
  assert not cloud.calls()


def test_the_schemas_refuse_what_they_do_not_know(cloud):
  run = manifest(cloud, *RUN)
  spec = run["spec"]["replicatedJobs"][0]["template"]["spec"]
  container = spec["template"]["spec"]["containers"][0]
  container["arguments"] = container.pop("args")
  with pytest.raises(kubernetes_validate.ValidationError):
    check_job(spec)
  run["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
  with pytest.raises(jsonschema.ValidationError):
    jsonschema.validate(run, json.loads(SCHEMA.read_text()))


def test_a_run_takes_every_host_of_its_slices(cloud):
  spec = manifest(cloud, *GKE, *TPU, "--slices=2", "run", "train")["spec"]
  (job,) = spec["replicatedJobs"]
  hosts = job["template"]["spec"]
  assert job["replicas"] == 2
  assert hosts["completions"] == hosts["parallelism"] == 2  # 2x2x2 / 4 chips
  pod = hosts["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
    "cloud.google.com/gke-tpu-topology": "2x2x2",
  }
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_spot_nodes_are_asked_for(cloud):
  for words in ([*RUN[:-2], "--spot", "run", "train"],
                [*STUDY, "--spot", "study", "ablate"]):  # fmt: skip
    text = json.dumps(manifest(cloud, *words))
    assert '"cloud.google.com/gke-spot": "true"' in text


def test_all_hosts_run_the_command_as_it_was_typed(cloud, t5x_lite):
  cloud.run(*RUN, *NASTY)
  pods = sorted(cloud.path.glob("t-slice-0-*"))
  assert len(pods) == 2
  for pod in pods:
    words = (pod / "output").read_text().split("\0")[:-1]
    assert words == ["train", *NASTY]
  assert cloud.run(*GKE, "logs", "1").split("\0")[0] == "train"
  assert cloud.run(*GKE, "status") == "t-slice-0-0 7\nt-slice-0-1 7\n"
  error = cloud.run(*RUN, status=1)
  assert 'jobsets "t" already exists' in error
  cloud.run(*GKE, "stop", "run")
  assert not cloud.run(*GKE, "status")
  assert "not found" in cloud.run(*GKE, "stop", "run", status=1)


def test_each_pod_of_a_study_runs_an_arm_as_it_was_typed(cloud, t5x_lite):
  cloud.run(*STUDY, "study", "ablate", *NASTY)
  for index in range(3):
    words = (cloud.path / f"t-{index}" / "output").read_text().split("\0")[:-1]
    assert words == ["ablate", *NASTY, f"--arm={index + 1}"]
    assert (cloud.path / f"t-{index}" / "status").read_text() == "7"
  cloud.run(*GKE, "stop", "study")
  assert not cloud.run(*GKE, "status")


def test_kubectl_is_told_the_cluster(cloud):
  cloud.run(*GKE, "--context=c", "--namespace=n", "status")
  assert cloud.calls() == [
    ["--context=c", "--namespace=n", "get", "pods",
     "--selector=app.kubernetes.io/instance=t"]
  ]  # fmt: skip


@pytest.mark.parametrize(
  ["words", "message"],
  [
    (["run", "train"], "give --name"),
    (["--name=T", "run", "train"], "--name (T) must be"),
    (["--name=t", "run", "train"], "give --image, --accelerator"),
    (["--name=t", "run"], "run needs a command"),
    (["--name=t", "study", "ablate"], "give --arms, --claim"),
    ([*GKE[1:], *TPU, "--topology=2xx2", "run", "train"], "(2xx2)"),
    ([*GKE[1:], *TPU, "--chips=3", "run", "train"], "has 8 chips"),
    ([*GKE[1:], *TPU, "--slices=0", "run", "train"], "--slices (0)"),
    ([*GKE[1:], "--accelerator=h100", "run", "train"], "(h100) must be"),
    ([*GKE[1:], "--accelerator=nvidia-l4", "run", "train"], "run takes TPUs"),
    ([*GKE[1:], "--accelerator=tpu-v6e-slice", "run", "train"], "--topology"),
    (["--name=t", "stop"], "stop what"),
    (["--name=t", "halt"], "unknown action halt"),
  ],
)
def test_a_mistake_is_explained_in_a_line(words, message, cloud):
  error = cloud.run("launch/gke.sh", *words, status=2)
  assert message in error and error.count("\n") == 1
  assert not cloud.calls()
