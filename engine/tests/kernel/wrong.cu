// Does not compile: line 3.
extern "C" __global__ void wrong_file(PARAMETERS) {
  y[0] = undeclared_name(x[0]);
}
