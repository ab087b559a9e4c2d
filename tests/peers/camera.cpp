// A minimal camera: sends one grey frame, waits for its receipt. Usage: camera ADDRESS NAME
#include "header.hpp"
#include <array>
#include <chrono>
#include <iostream>
#include <random>
#include <zmq_addon.hpp>

int main(int, char **argv) {
    zmq::context_t context;
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 2000);    // ms to hand over what is still queued at the end
    socket.set(zmq::sockopt::rcvtimeo, 10000); // ms to wait for a receipt
    socket.connect(argv[1]);
    const uint32_t height = 4, width = 6;
    std::vector<uint8_t> pixels(height * width);
    for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(10 * i);
    std::random_device random;
    uint64_t session = (uint64_t(random()) << 32) | random(), frame_id = 0;
    auto now = std::chrono::system_clock::now().time_since_epoch();
    msgpack::sbuffer header;
    msgpack::packer<msgpack::sbuffer> pack(header);
    auto field = [&pack](const char *name, auto value) { pack.pack(name); pack.pack(value); };
    pack.pack_map(10);
    field("schema", "edgead.frame"), field("version", std::vector<int>{1, 0});
    field("camera", argv[2]), field("session", session), field("frame_id", frame_id);
    field("height", height), field("width", width);
    field("pixel_format", "mono8");
    field("acquired_ns", uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()));
    field("payload_crc32", crc32(pixels.data(), pixels.size()));
    seal(header);
    zmq::send_multipart(socket, std::array{zmq::const_buffer("ead.v1.frame", 12),
        zmq::const_buffer(header.data(), header.size()), zmq::const_buffer(pixels.data(), pixels.size())});
    std::vector<zmq::message_t> parts;
    if (!zmq::recv_multipart(socket, std::back_inserter(parts)) || parts.size() != 2) return 1;
    Header receipt(parts[1], "edgead.receipt");
    std::cout << "accepted " << receipt.get<bool>("accepted") << " reason '" << receipt.get<std::string>("reason")
              << "' verdict " << receipt.get<int>("verdict") << " error " << receipt.get<std::string>("error") << "\n";
}
