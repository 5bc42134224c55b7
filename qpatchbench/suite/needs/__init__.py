"""What the jobs of a plan take of a machine: bytes on disk, bytes of memory."""
