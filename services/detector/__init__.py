"""frames.v1 -> admit -> infer -> order -> detections.v1 (+ snapshots.v1), then the commit"""
