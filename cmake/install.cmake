# What `cmake --install` puts where: headers, both libraries, the program and its manual page, and
# the descriptions that pkg-config and find_package read.

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/dsv4 DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h")
install(TARGETS dsv4_static dsv4_shared EXPORT dsv4-targets)
install(TARGETS dsv4_program)
if(TARGET dsv4_man)
  install(FILES ${PROJECT_BINARY_DIR}/dsv4.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()

# Both descriptions find the prefix from their own place, so that an installed tree can be moved.
file(RELATIVE_PATH DSV4_PREFIX_FROM_PC ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" DSV4_PREFIX_FROM_PC ${DSV4_PREFIX_FROM_PC})
list(JOIN DSV4_CUDA_LINK_OPTIONS " " DSV4_PC_PRIVATE)
set(DSV4_PC_PRIVATE "${OpenMP_C_FLAGS} ${DSV4_PC_PRIVATE} -ldl")
configure_file(${CMAKE_CURRENT_LIST_DIR}/dsv4.pc.in ${PROJECT_BINARY_DIR}/dsv4.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/dsv4.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/dsv4)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/dsv4-config.cmake.in
  ${PROJECT_BINARY_DIR}/dsv4-config.cmake INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dsv4-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(EXPORT dsv4-targets NAMESPACE dsv4:: DESTINATION ${config_dir})
install(FILES ${PROJECT_BINARY_DIR}/dsv4-config.cmake ${PROJECT_BINARY_DIR}/dsv4-config-version.cmake
  DESTINATION ${config_dir})
