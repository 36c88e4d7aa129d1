//! Which types may cross threads: said here, checked by the compiler.

use my_llm_ffi::{
    Any, Batch, Callbacks, Context, Error, Executor, ExecutorConfig, Function, Generation, IntPair,
    LoraAdapter, Model, Object, Plan, PlanBuilder, PlanValue, Request, Response, Sampler,
    StreamDecoder, Tensor, TensorView, TensorViewMut, Tokens, Vocab,
};

macro_rules! assert_is {
    ($($bound:ident)+: $($type:ty),* $(,)?) => {
        const _: () = {
            const fn check<T: $($bound +)+ ?Sized>() {}
            $(check::<$type>();)*
        };
    };
}

/// Where the type has the bound, two implementations fit and the compiler refuses.
macro_rules! assert_is_not {
    ($bound:ident: $($type:ty),* $(,)?) => {
        $(const _: fn() = || {
            trait Ambiguous<A> {
                fn check() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct HasBound;
            impl<T: ?Sized + $bound> Ambiguous<HasBound> for T {}
            let _ = <$type as Ambiguous<_>>::check;
        };)*
    };
}

// From any thread at once.
assert_is!(Send Sync: Model, Vocab, LoraAdapter, Executor, Callbacks, Function, PlanValue);
assert_is!(Send Sync: Tensor, TensorView<'_>, TensorViewMut<'_>);
assert_is!(Send Sync: Request, Response, ExecutorConfig, Error);

// From any thread, one at a time.
assert_is!(Send: Context, Batch, Sampler, StreamDecoder, Generation, Tokens, Plan, PlanBuilder);
assert_is_not!(Sync: Context, Batch, Sampler, StreamDecoder, Generation, Tokens, Plan, PlanBuilder);

// Nothing is known of what they refer to, or nothing guards it.
assert_is_not!(Send: Object, Any, IntPair);
assert_is_not!(Sync: Object, Any, IntPair);

#[test]
fn the_assertions_above_are_compiled() {}
