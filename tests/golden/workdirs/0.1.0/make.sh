# How these workdirs were made, with palmscale 0.1.0. Not to be run again.
common=(--gin.SEQUENCE_LENGTH=32 --gin.LOSS_CHUNK_LENGTH=32 "--gin.BATCH_SCHEDULE=((0, 4),)" --gin.HELD_OUT_SEQUENCES=4
  --gin.EVAL_EVERY_STEPS=2 --gin.SAVE_EVERY_STEPS=2 --gin.TRAIN_STEPS=4 --gin.KEEP_LATEST=1 --gin.HELD_OUT_FRACTION=0.3 --gin.CACHE_DIRECTORY=caches
  --gin.SAMPLE_PROMPT=None)
tiny=(--gin.palm.PaLM.dim=4 --gin.palm.PaLM.depth=1 --gin.palm.PaLM.heads=2 --gin.palm.PaLM.dim_head=2)
text=("--gin.TEXT_FILES=text/*.txt")
palmscale train --gin_file=configs/recipes/cpu_1m.gin "${tiny[@]}" "${common[@]}" "${text[@]}" --workdir=palm
palmscale train --gin_file=configs/recipes/cpu_1m_adamw.gin "${tiny[@]}" "${common[@]}" "${text[@]}" \
  "--gin.BATCH_SCHEDULE=((0, 8),)" --gin.MICROBATCHES=2 --gin.WARMUP_STEPS=2 --workdir=adamw
palmscale train --gin_file=mixture.gin "${tiny[@]}" "${common[@]}" --workdir=mixture
palmscale train --gin_file=own_module.gin "${common[@]}" "${text[@]}" --workdir=own_module
