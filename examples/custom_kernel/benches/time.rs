use custom_kernel::FORWARD;
use fornax_engine::{DType, Device, Tensor};

fn main() {
    let device = Device::best();
    let size = if device == Device::Cpu { 8 } else { 56 };
    let x = Tensor::ones([32, size, size, 64], DType::F32, &device).expect("memory");
    let [scale, bias] = [0.5, 0.25].map(|value| Tensor::full([64], value, DType::F32, &device).expect("memory"));
    let inputs = [&x, &scale, &bias];
    let bytes = FORWARD.bytes(&inputs).expect("they fit");
    println!("{}", fornax_engine::testing::time(|x| FORWARD.run(&[&x[0], &x[1], &x[2]]), &inputs, bytes).expect("it runs"));
}
