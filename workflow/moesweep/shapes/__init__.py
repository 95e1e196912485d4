"""Who works with whom, the sizes of a rank's share, the words of communication: what all stages share."""
