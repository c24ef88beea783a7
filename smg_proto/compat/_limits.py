"""Every bound on what is read from others: sizes, counts, depths and times.

Input beyond a bound is refused with one line that tells the bound.
"""

MIB = 2**20

# --- what one side of a comparison may consist of ------------------------------------------------
MAX_PROTO_FILES = 20_000
MAX_PROTO_BYTES = 16 * MIB  # of one proto file
MAX_PROTOS_BYTES = 128 * MIB  # of all proto files together
MAX_DESCRIPTORS_BYTES = 128 * MIB  # of a descriptor set, or of all descriptors together
MAX_DESCRIPTOR_FILES = 20_000
MAX_TYPE_CHAIN = 1_000  # types that hold one another before a cycle or an end

# --- where it is read from -----------------------------------------------------------------------
MAX_FOLDER_ENTRIES = 500_000
MAX_FOLDER_DEPTH = 64
MAX_ARCHIVE_BYTES = 512 * MIB
MAX_ARCHIVE_MEMBERS = 100_000
MAX_MODULE_BYTES = 32 * MIB  # of one generated module in a wheel
MAX_UNPACKED_BYTES = 256 * MIB  # of a compressed archive that must be unpacked to be read
MAX_ACCEPT_BYTES = 4 * MIB  # of a file of accepted findings
MAX_LISTING_BYTES = 64 * MIB  # of what a program tells

# --- programs and servers ------------------------------------------------------------------------
COMPILE_SECONDS = 120.0
GIT_SECONDS = 120.0
DOWNLOAD_SECONDS = 300.0
MAX_BROKEN_FILES = 100  # that --keep-going passes over
MAX_REPLY_BYTES = 16 * MIB  # of one message from a server
MAX_REPLIES_BYTES = 64 * MIB  # of a whole conversation with a server
MAX_SERVICES = 2_000
MAX_SERVED_FILES = 5_000

# --- what is shown -------------------------------------------------------------------------------
MAX_ERROR_LENGTH = 1_000  # characters
MAX_VALUE_LENGTH = 400  # characters of a message in text format
MAX_COMMENT_BYTES = 64 * 1024 - 1  # what a comment on GitHub can hold


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count // MIB} MiB" if count >= MIB else f"{count // 1024} KiB"
