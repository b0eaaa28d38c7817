# cmake --install: a tree that runs wherever it is moved to, on machines with the same MPI, HDF5 and LibTorch.
#   bin/roundtable                 finds LibTorch where ROUNDTABLE_PYTHON has it, or in lib/roundtable next to bin
#   share/roundtable/{launch,configs,cluster}
#   share/man/man1/roundtable.1    made from --help when the tree is installed
include(GNUInstallDirs)

set_target_properties(roundtable PROPERTIES
  INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}/roundtable"
  INSTALL_RPATH_USE_LINK_PATH ON)
install(TARGETS roundtable RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})

set(share ${CMAKE_INSTALL_DATADIR}/roundtable)
install(DIRECTORY configs cluster DESTINATION ${share} USE_SOURCE_PERMISSIONS PATTERN __pycache__ EXCLUDE)
# The scripts that work on a run or make its inputs; those that install and build stay in the source tree.
install(PROGRAMS launch/report.py launch/prepare_calibration.py launch/prepare_model.py launch/lm_eval.sh
  launch/describe_machine.py launch/export_model.py
  DESTINATION ${share}/launch)
install(FILES launch/report_charts.py launch/report_record.py launch/report_timeline.py launch/report_tensorboard.py
  launch/machine_rates.py launch/exit_codes.py launch/output_file.py launch/report.css launch/requirements.txt DESTINATION ${share}/launch)
install(DIRECTORY launch/lm_eval launch/calibration launch/graph_export DESTINATION ${share}/launch PATTERN __pycache__ EXCLUDE)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES src/phases/phases.svg DESTINATION ${CMAKE_INSTALL_DOCDIR}/src/phases)  # as README.md refers to it

install(CODE "
  execute_process(COMMAND ${ROUNDTABLE_PYTHON} ${PROJECT_SOURCE_DIR}/launch/man_page.py $<TARGET_FILE:roundtable>
    \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_MANDIR}/man1/roundtable.1 COMMAND_ERROR_IS_FATAL ANY)")
