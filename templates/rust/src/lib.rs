//! The wire contract for LLM serving over gRPC. The modules are the proto packages.

// Generated comments are Markdown of no particular tool, and generated enums hold what they must.
#![allow(clippy::all, rustdoc::all)]

pub mod entity {
    pub mod grpc {
        include!("entity/grpc/entity.grpc.rs");
    }
}

pub mod mlx {
    pub mod grpc {
        pub mod engine {
            include!("mlx/grpc/engine/mlx.grpc.engine.rs");
        }
    }
}

pub mod openengine {
    pub mod v1 {
        include!("openengine/v1/openengine.v1.rs");
    }
}

pub mod sagellm {
    pub mod v1 {
        include!("sagellm/v1/sagellm.v1.rs");
    }
}

pub mod sglang {
    pub mod grpc {
        pub mod encoder {
            include!("sglang/grpc/encoder/sglang.grpc.encoder.rs");
        }
        pub mod scheduler {
            include!("sglang/grpc/scheduler/sglang.grpc.scheduler.rs");
        }
    }
    pub mod runtime {
        pub mod v1 {
            include!("sglang/runtime/v1/sglang.runtime.v1.rs");
        }
    }
}

pub mod smg {
    pub mod grpc {
        pub mod common {
            include!("smg/grpc/common/smg.grpc.common.rs");
        }
    }
    pub mod v1 {
        include!("smg/v1/smg.v1.rs");
    }
}

pub mod tokenspeed {
    pub mod grpc {
        pub mod encoder {
            include!("tokenspeed/grpc/encoder/tokenspeed.grpc.encoder.rs");
        }
        pub mod scheduler {
            include!("tokenspeed/grpc/scheduler/tokenspeed.grpc.scheduler.rs");
        }
    }
}

pub mod trtllm {
    include!("trtllm/trtllm.rs");
}

pub mod vllm {
    include!("vllm/vllm.rs");
    pub mod grpc {
        pub mod engine {
            include!("vllm/grpc/engine/vllm.grpc.engine.rs");
        }
    }
}
