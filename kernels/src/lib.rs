//! The CUDA kernels of Fornax: their sources, how they are compiled and cached, and an emulated device that runs them on a
//! machine without a GPU.

#[cfg(target_os = "linux")]
pub mod emulator;

/// TEMP
pub fn image(name: &str, _capability: (u32, u32)) -> Result<Vec<u8>, String> {
    use cudarc::nvrtc::{result, sys};
    let cu = concat!(env!("CARGO_MANIFEST_DIR"), "/cu/");
    let file = std::fs::read_to_string(format!("{cu}{name}.cu")).map_err(|e| e.to_string())?;
    let text = |f: &str| std::ffi::CString::new(std::fs::read_to_string(format!("{cu}{f}")).unwrap()).unwrap();
    let names = ["fornax.cuh", "channels.cuh", "rows.cuh"];
    let headers = names.map(text);
    let cnames = names.map(|n| std::ffi::CString::new(n).unwrap());
    let hp = headers.each_ref().map(|h| h.as_ptr());
    let np = cnames.each_ref().map(|h| h.as_ptr());
    let src = std::ffi::CString::new(file).unwrap();
    let fname = std::ffi::CString::new(format!("kernels/cu/{name}.cu")).unwrap();
    unsafe {
        let mut p = std::ptr::null_mut();
        let r = sys::nvrtcCreateProgram(&mut p, src.as_ptr(), fname.as_ptr(), 3, hp.as_ptr(), np.as_ptr());
        assert_eq!(r as i32, 0);
        if let Err(e) = result::compile_program(p, &["--gpu-architecture=sm_90", "-std=c++17"]) {
            let log = result::get_program_log(p).map(|l| std::ffi::CStr::from_ptr(l.as_ptr()).to_string_lossy().into_owned());
            return Err(format!("{e:?} {log:?}"));
        }
        let mut n = 0;
        sys::nvrtcGetCUBINSize(p, &mut n);
        let mut out = vec![0u8; n];
        sys::nvrtcGetCUBIN(p, out.as_mut_ptr().cast());
        Ok(out)
    }
}
