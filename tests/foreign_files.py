"""Files as people have them, written anew after the public formats."""

MIXTRAL_SCRIPT = """\
#!/bin/bash
# Pretraining of Mixtral 8x7B
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-"1"}
NODE_RANK=${RANK:-"0"}
WORLD_SIZE=$(($GPUS_PER_NODE*$NNODES))
TP=${TP:-1}
TOKENIZER_MODEL=$1

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NNODES
    --node_rank $NODE_RANK
    --master_addr ${MASTER_ADDR:-"localhost"}
)
MODEL_ARGS=(
    --use-mcore-models
    --disable-bias-linear
    --seq-length 4096
    --max-position-embeddings 32768
    --num-layers 32
    --hidden-size 4096
    --ffn-hidden-size 14336
    --num-attention-heads 32
    --attention-dropout 0.0
    --hidden-dropout 0.0
    --normalization RMSNorm
    --position-embedding-type rope
    --swiglu
    --untie-embeddings-and-output-weights
    --group-query-attention
    --num-query-groups 8
)
MOE_ARGS=(
    --num-experts 8
    --moe-router-topk 2
    --moe-router-load-balancing-type aux_loss
    --moe-grouped-gemm
    --overlap-grad-reduce
)
DATA_ARGS=(--tokenizer-type Llama2Tokenizer --tokenizer-model ${TOKENIZER_MODEL})
TRAINING_ARGS=(
    --micro-batch-size 1
    --global-batch-size 256
    --lr 1e-4
    --bf16
)
MODEL_PARALLEL_ARGS=(
    --tensor-model-parallel-size $TP
    --pipeline-model-parallel-size 4
    --expert-model-parallel-size 8
    --use-distributed-optimizer
    --sequence-parallel
)
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \\
    ${MODEL_ARGS[@]} ${MOE_ARGS[@]} ${DATA_ARGS[@]} \\
    ${TRAINING_ARGS[@]} ${MODEL_PARALLEL_ARGS[@]} > train.log
"""

ZOO = """\
ENV_VARS:
  CUDA_DEVICE_MAX_CONNECTIONS: 1
MODEL_ARGS:
  --distributed-timeout-minutes: 60
  --tensor-model-parallel-size: ${TP}
  --pipeline-model-parallel-size: ${PP}
  --expert-model-parallel-size: ${EP}
  --expert-tensor-parallel-size: 1
  --use-distributed-optimizer: true
  --grad-reduce-in-bf16: true
  --decoder-last-pipeline-num-layers: 1
  --sequence-parallel: true
  --bf16: true
  --micro-batch-size: ${MBS}
  --global-batch-size: ${GBS}
  --seq-length: 4096
  --tokenizer-type: HuggingFaceTokenizer
  --vocab-size: 129280
  --num-layers: 61
  --hidden-size: 7168
  --ffn-hidden-size: 18432
  --num-attention-heads: 128
  --kv-channels: 128
  --untie-embeddings-and-output-weights: true
  --position-embedding-type: rope
  --normalization: RMSNorm
  --swiglu: true
  --disable-bias-linear: true
  --attention-dropout: 0.0
  --hidden-dropout: 0.0
  --qk-layernorm: true
  --multi-latent-attention: true
  --q-lora-rank: 1536
  --kv-lora-rank: 512
  --qk-head-dim: 128
  --qk-pos-emb-head-dim: 64
  --v-head-dim: 128
  --num-experts: 256
  --moe-layer-freq: ([0]*3+[1]*58)
  --moe-ffn-hidden-size: 2048
  --moe-shared-expert-intermediate-size: 2048
  --moe-router-topk: 8
  --moe-router-num-groups: 8
  --moe-router-group-topk: 4
  --moe-token-dispatcher-type: flex
  --mtp-num-layers: 1
  --moe-permute-fusion: true
  --fp8-format: false
  --lr: 3.9e-6
"""

BRIDGE = """\
model:
  _target_: megatron.bridge.models.qwen.Qwen3MoEModelProvider30B_A3B
  num_layers: 48
  hidden_size: 2048
  ffn_hidden_size: 6144
  num_attention_heads: 32
  num_query_groups: 4
  kv_channels: 128
  qk_layernorm: true
  gated_linear_unit: true
  bias_activation_fusion: true
  add_bias_linear: false
  normalization: RMSNorm
  position_embedding_type: rope
  share_embeddings_and_output_weights: false
  hidden_dropout: 0.0
  attention_dropout: 0.0
  vocab_size: 151936
  num_moe_experts: 128
  moe_router_topk: 8
  moe_ffn_hidden_size: 768
  moe_router_dtype: fp32
  tensor_model_parallel_size: 1
  pipeline_model_parallel_size: 2
  expert_model_parallel_size: 4
  expert_tensor_parallel_size: 1
  sequence_parallel: false
  recompute_granularity: null
  seq_length: 4096
train:
  global_batch_size: 32
  micro_batch_size: 2
ddp:
  use_distributed_optimizer: true
  grad_reduce_in_fp32: false
  overlap_grad_reduce: true
optimizer:
  use_precision_aware_optimizer: true
  exp_avg_dtype: torch.bfloat16
mixed_precision: bf16_mixed
logger:
  log_interval: 1
"""

SIMUMAX_MODEL = """\
{"model_name": "deepseekv2", "model_type": "moe", "hidden_size": 5120, "head_num": 128, "kv_head_num": 128,
 "head_size": 128, "intermediate_size": 12288, "moe_ffn_hidden_size": 1536, "layer_num": 4, "dense_layers": 1,
 "vocab_size": 102400, "use_swiglu": true, "expert_num": 160, "topk": 6, "attention_type": "mla",
 "moe_shared_expert_intermediate_size": 3072, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_head_dim": 128,
 "qk_pos_emb_head_dim": 64, "v_head_dim": 128, "group_linear_mode": "parallel"}
"""

SIMUMAX_STRATEGY = """\
{"seq_len": 4096, "micro_batch_size": 1, "micro_batch_num": 8, "dtype": "bf16", "world_size": 16,
 "tp_size": 1, "pp_size": 2, "ep_size": 8, "etp_size": 1, "moe_dispatcher_policy": "all2all",
 "enable_sequence_parallel": true, "interleaving_size": 1, "zero_state": 1, "enable_dropout": false,
 "use_flash_sdp": true, "use_fused_norm": true,
 "enable_recompute": true, "recompute_granularity": "full_block", "mem_factor": 0.94}
"""

CALCULON_MODEL = """\
{"name": "gpt3-175B", "hidden": 12288, "feedforward": 49152, "seq_size": 2048, "attn_heads": 96,
 "attn_size": 128, "num_blocks": 96}
"""

CALCULON_EXECUTION = """\
{"num_procs": 512, "tensor_par": 8, "pipeline_par": 8, "data_par": 8, "tensor_par_net": 0,
 "pipeline_par_net": 1, "data_par_net": 1, "batch_size": 512, "microbatch_size": 1, "datatype": "bfloat16",
 "fused_activation": false,
 "attention_type": "multihead", "activation_recompute": "attn_only", "pipeline_interleaving": 2,
 "optimizer_sharding": true, "tensor_par_comm_type": "rs_ag", "tensor_par_overlap": "ring",
 "weight_offload": false, "training": true}
"""

AICB = """\
HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: 8 ep: 4 pp: 4 vpp: 10 ga: 64 all_gpus: 512 \
checkpoints: 0 checkpoint_initiates: 0 pp_comm: 10485760.0
1
grad_norm\t-1\t1\tNONE\t0\t1\tNONE\t0\t1\tNONE\t0\t100
"""

FILES = {
    "launch.sh": MIXTRAL_SCRIPT,
    "zoo.yaml": ZOO,
    "bridge.yaml": BRIDGE,
    "simumax_model.json": SIMUMAX_MODEL,
    "simumax_strategy.json": SIMUMAX_STRATEGY,
    "calculon_model.json": CALCULON_MODEL,
    "calculon_execution.json": CALCULON_EXECUTION,
    "aicb.txt": AICB,
}
