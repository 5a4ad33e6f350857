"""The checks that a configuration can name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gaudi3_rt.health._check import Check
from gaudi3_rt.health._files import FileSystemCheck
from gaudi3_rt.health._hpu import HpuDeviceCheck
from gaudi3_rt.health._network import NetworkCheck
from gaudi3_rt.health._process import ProcessCheck
from gaudi3_rt.health._service import HttpServiceCheck, TcpServiceCheck
from gaudi3_rt.health._system import SystemResourcesCheck

AnyCheck = Annotated[
    FileSystemCheck
    | HpuDeviceCheck
    | HttpServiceCheck
    | NetworkCheck
    | ProcessCheck
    | SystemResourcesCheck
    | TcpServiceCheck,
    Field(discriminator="type"),
]
BY_TYPE: dict[str, type[Check]] = {
    one.model_fields["type"].default: one
    for one in (
        HpuDeviceCheck,
        SystemResourcesCheck,
        FileSystemCheck,
        HttpServiceCheck,
        TcpServiceCheck,
        ProcessCheck,
        NetworkCheck,
    )
}
