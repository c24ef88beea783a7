"""All limits on untrusted input: sizes, counts, depths and times.

Input beyond a limit is rejected with one line that names the limit.
"""

MIB = 2**20

# --- one side of a comparison --------------------------------------------------------------------
MAX_PROTO_FILES = 20_000
MAX_PROTO_BYTES = 16 * MIB  # of one proto file
MAX_PROTOS_BYTES = 128 * MIB  # of all proto files together
MAX_DESCRIPTORS_BYTES = 128 * MIB  # of a descriptor set, or of all descriptors together
MAX_DESCRIPTOR_FILES = 20_000
MAX_TYPE_CHAIN = 1_000  # types nested in one another

# --- folders and archives ------------------------------------------------------------------------
MAX_FOLDER_ENTRIES = 500_000
MAX_FOLDER_DEPTH = 64
MAX_ARCHIVE_BYTES = 512 * MIB
MAX_ARCHIVE_MEMBERS = 100_000
MAX_MODULE_BYTES = 32 * MIB  # of one generated module in a wheel
MAX_UNPACKED_BYTES = 256 * MIB  # of a compressed archive
MAX_ACCEPT_BYTES = 4 * MIB  # of a file of accepted findings
MAX_LISTING_BYTES = 64 * MIB  # of a program's output

# --- programs and servers ------------------------------------------------------------------------
COMPILE_SECONDS = 120.0
GIT_SECONDS = 120.0
DOWNLOAD_SECONDS = 300.0
MAX_BROKEN_FILES = 100  # that --keep-going leaves out
MAX_REPLY_BYTES = 16 * MIB  # of one message from a server
MAX_REPLIES_BYTES = 64 * MIB  # of all messages from a server
MAX_SERVICES = 2_000
MAX_SERVED_FILES = 5_000

# --- output --------------------------------------------------------------------------------------
MAX_ERROR_LENGTH = 1_000  # characters
MAX_VALUE_LENGTH = 400  # characters of a message in text format
MAX_COMMENT_BYTES = 64 * 1024 - 1  # the maximum of a comment on GitHub


def size(count: int) -> str:
    """A number of bytes in words."""
    return f"{count // MIB} MiB" if count >= MIB else f"{count // 1024} KiB"
