"""A file that configures a run, and what an error says is wrong with one."""

RUN = """\
# a run
max_steps: 1000
optimizer:
  name: adamw
  lr: 3e-4        # a number, unlike in YAML 1.1
  betas: [0.9, 0.95]
dataset: {path: data, num_workers: 4}
"""


def problems(excinfo):
    """The findings that an error carries, by path."""
    return {one["path"]: one for one in excinfo.value.context["problems"]}
