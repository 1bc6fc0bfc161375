// swift-tools-version: 6.2
import PackageDescription

// What every Swift target is held to; docs/architecture.md says which target may import which.
let settings: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  // Generic code that is used across targets, above all the pipeline and its monitor, is specialised.
  .unsafeFlags(["-cross-module-optimization"], .when(configuration: .release)),
]

let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")

let package = Package(
  name: "borg-serve",
  platforms: [.macOS(.v26)],
  products: [
    .executable(name: "borg-serve", targets: ["borg-serve"]),
    .executable(name: "borg-serve-net", targets: ["borg-serve-net"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-system", exact: "1.8.1"),
    .package(url: "https://github.com/apple/swift-collections", exact: "1.6.0"),
    .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-ssl", exact: "2.37.6"),
  ],
  targets: [
    // No pkgConfig: what it gives links the shared library; the module maps name the archives.
    .systemLibrary(name: "CDeflate", providers: [.apt(["libdeflate-dev"])]),
    .systemLibrary(name: "CCrypto", providers: [.apt(["libssl-dev"])]),
    .target(name: "CBlake3"),
    .target(name: "BorgFormat", dependencies: ["CDeflate"], swiftSettings: settings),
    .target(
      name: "ContentHash", dependencies: ["BorgFormat", "CBlake3", "CCrypto"], swiftSettings: settings),
    .target(name: "CSyscalls"),
    .target(name: "Disk", dependencies: ["BorgFormat", "CSyscalls", system], swiftSettings: settings),
    .target(
      name: "Storage", dependencies: ["BorgFormat", "Disk", system], swiftSettings: settings),
    .target(
      name: "ObjectRepository", dependencies: ["BorgFormat", "Disk", "Storage"], swiftSettings: settings),
    .target(
      name: "SegmentRepository", dependencies: ["BorgFormat", "Disk", system], swiftSettings: settings),
    .target(
      name: "Session",
      dependencies: [
        "BorgFormat", "Disk", "Storage", "ObjectRepository", "SegmentRepository", deque, system,
      ],
      swiftSettings: settings),
    .target(
      name: "RPC",
      dependencies: ["BorgFormat", "Disk", "Storage", "ObjectRepository", "SegmentRepository", "Session"],
      swiftSettings: settings),
    .target(
      name: "REST", dependencies: ["BorgFormat", "ContentHash", "Disk", "Storage", "Session", system],
      swiftSettings: settings),
    .target(name: "SocketServer", dependencies: ["BorgFormat", "Disk", system], swiftSettings: settings),
    // As with CDeflate: the archive by its name, so that hosts need no libcrypt.
    .systemLibrary(name: "CCrypt", providers: [.apt(["libcrypt-dev"])]),
    .target(
      name: "NetServer",
      dependencies: [
        "BorgFormat", "CCrypt", "CSyscalls", "Disk", "REST", "SocketServer", "Storage", deque, nioCore,
        nioPosix, nioSSL, system,
      ],
      swiftSettings: settings),
    .executableTarget(
      name: "borg-serve-net",
      dependencies: ["BorgFormat", "Disk", "NetServer", "REST", "ServeCommand", "Storage", system],
      swiftSettings: settings,
      linkerSettings: [.unsafeFlags(["-static-stdlib"], .when(platforms: [.linux]))]),
    .target(name: "ServeCommand", dependencies: ["BorgFormat"], swiftSettings: settings),
    .executableTarget(
      name: "borg-serve",
      dependencies: [
        "BorgFormat", "Disk", "ObjectRepository", "REST", "RPC", "ServeCommand", "Session", "SocketServer",
        system,
      ],
      swiftSettings: settings,
      // A static standard library halves start-up time and memory, and hosts need no Swift runtime.
      linkerSettings: [.unsafeFlags(["-static-stdlib"], .when(platforms: [.linux]))]),
    .target(name: "TestKit", path: "Tests/TestKit", swiftSettings: settings),
    .target(
      name: "DiskSimulation", dependencies: ["BorgFormat", "Disk", "TestKit", system],
      path: "Tests/DiskSimulation",
      swiftSettings: settings),
    .testTarget(name: "BorgFormatTests", dependencies: ["BorgFormat", "TestKit"], swiftSettings: settings),
    .testTarget(
      name: "SegmentFormatTests", dependencies: ["BorgFormat", "TestKit"], swiftSettings: settings),
    .testTarget(
      name: "ServeCommandTests", dependencies: ["BorgFormat", "ServeCommand", "TestKit", system],
      swiftSettings: settings),
    .testTarget(name: "MessageTests", dependencies: ["BorgFormat", "TestKit"], swiftSettings: settings),
    .testTarget(
      name: "ContentHashTests", dependencies: ["ContentHash", "TestKit"], swiftSettings: settings),
    .testTarget(name: "DiskTests", dependencies: ["Disk", system], swiftSettings: settings),
    .testTarget(
      name: "StorageTests",
      dependencies: ["BorgFormat", "Disk", "DiskSimulation", "Storage", "TestKit", system],
      swiftSettings: settings),
    .testTarget(
      name: "ObjectRepositoryTests",
      dependencies: ["BorgFormat", "Disk", "DiskSimulation", "ObjectRepository", "Storage", system],
      swiftSettings: settings),
    .testTarget(
      name: "SegmentRepositoryTests",
      dependencies: ["BorgFormat", "Disk", "DiskSimulation", "SegmentRepository", "TestKit", system],
      swiftSettings: settings),
    .testTarget(
      name: "SessionTests",
      dependencies: ["BorgFormat", "Disk", "Storage", "ObjectRepository", "Session", "TestKit", system],
      swiftSettings: settings),
    .testTarget(
      name: "RPCTests",
      dependencies: [
        "BorgFormat", "Disk", "ObjectRepository", "RPC", "SegmentRepository", "Session", "TestKit", system,
      ],
      swiftSettings: settings),
    .testTarget(
      name: "RESTTests",
      dependencies: [
        "BorgFormat", "ContentHash", "Disk", "DiskSimulation", "REST", "Session", "Storage", "TestKit",
        system,
      ],
      swiftSettings: settings),
    .testTarget(
      name: "NetServerTests",
      dependencies: [
        "BorgFormat", "CCrypt", "Disk", "DiskSimulation", "NetServer", "REST", "Storage", nioCore, nioPosix,
        nioSSL,
        system,
      ],
      swiftSettings: settings),
    .testTarget(
      name: "SocketServerTests",
      dependencies: ["BorgFormat", "Disk", "ObjectRepository", "RPC", "Session", "SocketServer", system],
      swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6]
)
