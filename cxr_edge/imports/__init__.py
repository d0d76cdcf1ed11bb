"""Import of networks trained elsewhere: ONNX files, labels and the input that they were trained with in, a bundle out."""
