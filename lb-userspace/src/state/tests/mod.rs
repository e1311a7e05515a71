//! The rules of `step`, one by one.

mod desk;
mod health;
mod life;
mod publish;
mod reload;
mod replace;
mod restart;
mod shutdown;
mod stop;
