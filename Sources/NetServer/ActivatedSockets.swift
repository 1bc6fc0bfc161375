import Disk
import Glibc
import NIOCore

/// A listening socket that systemd has opened for this process.
struct ActivatedSocket {
  let descriptor: Int32
  /// What it is bound to; nil for a unix socket.
  let address: NetworkAddress?
}

enum ActivatedSockets {
  /// The sockets of a name, as `LISTEN_FDS` and `LISTEN_FDNAMES` tell; each can be had once. Source: sd_listen_fds(3).
  static func named(_ name: String) -> [ActivatedSocket] {
    let text = { (variable: String) in Host.environment(variable).map { String(decoding: $0, as: UTF8.self) }
    }
    guard text("LISTEN_PID").flatMap({ Int($0) }) == Host.processID,
      let count = text("LISTEN_FDS").flatMap({ Int($0) }),
      (1...64).contains(count)
    else { return [] }
    let names = (text("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false)
    return (0..<count).compactMap { number in
      // Without names systemd calls them `unknown`.
      guard (number < names.count ? names[number] : "unknown") == name else { return nil }
      return adopt(3 + Int32(number))
    }
  }

  /// Nil for what is no listening stream socket.
  private static func adopt(_ descriptor: Int32) -> ActivatedSocket? {
    guard option(descriptor, SO_ACCEPTCONN) == 1, option(descriptor, SO_TYPE) == Int32(SOCK_STREAM.rawValue)
    else {
      return nil
    }
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    switch option(descriptor, SO_DOMAIN) {
    case AF_UNIX: return ActivatedSocket(descriptor: descriptor, address: nil)
    case AF_INET, AF_INET6:
      return boundAddress(descriptor).map { ActivatedSocket(descriptor: descriptor, address: $0) }
    default: return nil
    }
  }

  private static func option(_ descriptor: Int32, _ name: Int32) -> Int32 {
    var value: Int32 = -1
    var size = socklen_t(MemoryLayout<Int32>.size)
    return unsafe getsockopt(descriptor, SOL_SOCKET, name, &value, &size) == 0 ? value : -1
  }

  private static func boundAddress(_ descriptor: Int32) -> NetworkAddress? {
    var storage = sockaddr_storage()
    var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
    var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
    let isNamed = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        unsafe getsockname(descriptor, address, &size) == 0
          && getnameinfo(address, size, &host, socklen_t(host.count), nil, 0, NI_NUMERICHOST) == 0
      }
    }
    guard isNamed else { return nil }
    return NetworkAddress(
      String(decoding: host.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
  }
}
