"""Random faults while runs are carried out: nothing is lost, doubled or hung, and the bytes stay the same."""
