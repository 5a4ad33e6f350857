"""How much local memory a kernel takes, and how much there is."""

from gaudi3_rt.tpc._compile import CompileError
from gaudi3_rt.tpc._elf import Variable

_VECTOR_MEMORY = 80 * 1024
_VECTOR_MEMORY_WITH_TABLES = 16 * 1024
_SCALAR_MEMORY = {"gaudi": 1024, "gaudi2": 16 * 1024, "gaudi3": 16 * 1024}


def local_bytes(variables: list[Variable]) -> tuple[int, int]:
    """Bytes of vector and of scalar local memory that variables take."""
    vector = sum(v.size for v in variables if v.is_vector)
    return vector, sum(v.size for v in variables) - vector


def check_local_memory(name: str, variables: list[Variable], arch: str, *, uses_tables: bool) -> None:
    """Refuses a kernel whose variables do not fit.

    Raises:
        CompileError: they do not.
    """
    vector, scalar = local_bytes(variables)
    sizes = ", ".join(f"{v.name} {v.size}" for v in variables)
    limit = _VECTOR_MEMORY_WITH_TABLES if uses_tables else _VECTOR_MEMORY
    if vector > limit:
        why = " for a kernel that uses functions with tables, like v_exp_f32" if uses_tables else ""
        message = f"{name} has {vector} bytes in vector local memory ({sizes}); there are {limit}{why}"
        raise CompileError(message)
    if scalar > _SCALAR_MEMORY[arch]:
        message = f"{name} has {scalar} bytes in scalar local memory ({sizes}); {arch} has {_SCALAR_MEMORY[arch]}"
        raise CompileError(message)
