import Glibc

/// The bytes of an IP address, 4 or 16; an IPv4 address in IPv6's clothes is taken for what it is.
public struct NetworkAddress: Hashable, Sendable {
  let bytes: [UInt8]

  /// Reads a numeric address; nil for everything else.
  public init?(_ text: String) {
    var (four, six) = (in_addr(), in6_addr())
    if unsafe inet_pton(AF_INET, text, &four) == 1 {
      bytes = unsafe withUnsafeBytes(of: &four) { unsafe Array($0) }
    } else if unsafe inet_pton(AF_INET6, text, &six) == 1 {
      let all = unsafe withUnsafeBytes(of: &six) { unsafe Array($0) }
      let isMapped = all.prefix(10).allSatisfy { $0 == 0 } && all[10] == 0xff && all[11] == 0xff
      bytes = isMapped ? Array(all[12...]) : all
    } else {
      return nil
    }
  }

  /// What one customer of a network has: an IPv4 address, or 64 bits of an IPv6 address.
  var site: [UInt8] { bytes.count == 4 ? bytes : Array(bytes.prefix(8)) }

  var isLoopback: Bool {
    bytes.count == 4 ? bytes[0] == 127 : bytes.dropLast().allSatisfy { $0 == 0 } && bytes.last == 1
  }
}

/// Addresses with common first bits: `10.0.0.0/8`, or a single address.
public struct AddressRange: Hashable, Sendable {
  let address: NetworkAddress
  let bits: Int

  /// Nil for what is no such thing.
  public init?(_ text: String) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count <= 2, let address = NetworkAddress(String(parts[0])) else { return nil }
    let limit = address.bytes.count * 8
    guard parts.count == 2 else {
      (self.address, bits) = (address, limit)
      return
    }
    guard let bits = Int(parts[1]), (0...limit).contains(bits),
      parts[1].utf8.allSatisfy({ (48...57).contains($0) })
    else { return nil }
    (self.address, self.bits) = (address, bits)
  }

  func contains(_ other: NetworkAddress) -> Bool {
    guard other.bytes.count == address.bytes.count else { return false }
    for bit in 0..<bits {
      let mask = UInt8(0x80) >> (bit % 8)
      guard address.bytes[bit / 8] & mask == other.bytes[bit / 8] & mask else { return false }
    }
    return true
  }
}
