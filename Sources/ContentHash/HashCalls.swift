import CBlake3
import CCrypto

// The only unsafe code of this target: C functions take a state, which is plain data of a fixed size, and the bytes of a
// span for the time of the call; they keep neither.

/// SHA-256 by OpenSSL's assembly, which picks the CPU's own instructions where it has them: in Swift it would be five
/// times slower. These functions cannot fail.
struct SHA256State: Sendable {
  private var context = SHA256_CTX()

  init() {
    _ = unsafe SHA256_Init(&context)
  }

  mutating func update(_ bytes: Span<UInt8>) {
    unsafe bytes.withUnsafeBytes { buffer in
      _ = unsafe SHA256_Update(&context, buffer.baseAddress, buffer.count)
    }
  }

  func digest() -> [32 of UInt8] {
    // The last step destroys the state.
    var context = context
    return unsafe digestBytes { digest in _ = unsafe SHA256_Final(digest, &context) }
  }
}

/// BLAKE3 by our own C, for the vector instructions that one gets there.
struct BLAKE3State: Sendable {
  private var state = borg_blake3()

  init(portable: Bool) {
    unsafe borg_blake3_start(&state, portable)
  }

  mutating func update(_ bytes: Span<UInt8>) {
    unsafe bytes.withUnsafeBufferPointer { buffer in
      unsafe borg_blake3_update(&state, buffer.baseAddress, buffer.count)
    }
  }

  func digest() -> [32 of UInt8] {
    unsafe withUnsafePointer(to: state) { state in
      unsafe digestBytes { digest in unsafe borg_blake3_digest(state, digest) }
    }
  }
}

/// What `fill` writes, which is 32 bytes.
private func digestBytes(_ fill: (UnsafeMutablePointer<UInt8>) -> Void) -> [32 of UInt8] {
  var bytes = [32 of UInt8](repeating: 0)
  var span = bytes.mutableSpan
  unsafe span.withUnsafeMutableBufferPointer { buffer in
    if let start = buffer.baseAddress { unsafe fill(start) }
  }
  return bytes
}
