"""What machines in a cloud need and no other cluster does: what they run at boot, guards, prices, a rehearsal."""
