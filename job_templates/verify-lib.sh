# Put before the scripts that verify a backup. A backup is called bad only where that is proven: what kept a verification
# from its end says nothing about it.

incomplete() { fail VerificationIncomplete "$1 This says nothing about the backup."; }

no_room() { incomplete "There is no room on the disk of the node ($(room "$scratch"))."; }
stopped() { incomplete "What reads the backup was stopped by signal $(kill -l "$1"); if that was for its memory, raise spec.resources.limits.memory."; }
