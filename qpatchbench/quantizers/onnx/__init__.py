"""Deployed networks as ONNX models: their fake quantizers as QuantizeLinear and DequantizeLinear, codes as integers."""
